// Command smpq moves, checks, compacts and inspects the queue database of a
// SimpleX message router.
package main

import (
	"context"
	"io"
	"os"

	"github.com/smpq/smpq/internal/cli"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs smpq with the arguments and returns the exit status. An interrupt
// ends what it does; a second one ends the process.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := cli.Interruptible(context.Background())
	defer stop()
	console := cli.NewConsole(stdin, stderr)
	root := newRoot(console)
	root.SetArgs(protectIDs(root, args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(console.Err())
	return cli.Execute(ctx, root)
}
