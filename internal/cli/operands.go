package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// operands returns what a command's usage line calls its operands: words in
// upper case, such as FILE.
func operands(cmd *cobra.Command) []string {
	var names []string
	for word := range strings.FieldsSeq(cmd.Use) {
		if word == strings.ToUpper(word) && word != strings.ToLower(word) && !strings.HasPrefix(word, "[") {
			names = append(names, word)
		}
	}
	return names
}

// prepareOperands makes a command and those below it name the operand that is
// missing, empty or too much, and complete operands and flags by what they are
// called: FILE by files, FOLDER by folders, all else by nothing.
func prepareOperands(cmd *cobra.Command) {
	names := operands(cmd)
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			return nameOperand(cmd, names, args, check(cmd, args))
		}
	}
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= len(names) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, completion(names[len(args)])
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		value, _ := pflag.UnquoteUsage(f)
		complete := cobra.FixedCompletions(nil, completion(value))
		// Only the first function for a flag counts, and is no error.
		_ = cmd.RegisterFlagCompletionFunc(f.Name, complete)
	})
	for _, sub := range cmd.Commands() {
		prepareOperands(sub)
	}
}

// completion returns how a shell completes what has the given name.
func completion(name string) cobra.ShellCompDirective {
	switch strings.ToLower(name) {
	case "file", "file|-", "command":
		return cobra.ShellCompDirectiveDefault
	case "folder":
		return cobra.ShellCompDirectiveFilterDirs
	}
	return cobra.ShellCompDirectiveNoFileComp
}

// nameOperand refuses empty operands, and says in other words what cobra has
// against the arguments.
func nameOperand(cmd *cobra.Command, names, args []string, refused error) error {
	for i, name := range names {
		if i < len(args) && args[i] == "" {
			return fmt.Errorf("%s is empty", name)
		}
	}
	switch {
	case refused == nil:
		return nil
	case len(args) < len(names):
		return fmt.Errorf("missing %s", names[len(args)])
	case !cmd.HasSubCommands():
		return fmt.Errorf("unexpected argument %q", args[len(names)])
	}
	return refused // an unknown command
}

// A usageError is what cobra refuses, in words for the operator.
type usageError struct{ error }

// exclusive matches cobra's text about flags that exclude each other.
var exclusive = regexp.MustCompile(`^if any flags in the group \[.*\] are set none of the others can be; \[(.*)\] were all set$`)

func (e usageError) Error() string {
	text := e.error.Error()
	if number, ok := errors.AsType[*strconv.NumError](e.error); ok {
		reason := "want a number"
		if errors.Is(number, strconv.ErrRange) {
			reason = "number out of range"
		}
		return strings.Replace(text, number.Error(), reason, 1)
	}
	if m := exclusive.FindStringSubmatch(text); m != nil {
		return "--" + strings.Join(strings.Fields(m[1]), " and --") + " exclude each other"
	}
	return text
}

func (e usageError) Unwrap() error { return e.error }
