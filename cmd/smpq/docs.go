package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/smpq/smpq/internal/cli"
)

func newDocs() *cobra.Command {
	return cli.Group("docs", "Write the documentation of smpq", newDocsMan())
}

func newDocsMan() *cobra.Command {
	return &cobra.Command{
		Use:   "man FOLDER",
		Short: "Write a man page for each command",
		Long: `Write a man page for each command into a folder, which is made if it does not
exist. The pages are dated by the variable SOURCE_DATE_EPOCH if it is set.`,
		Example: `  smpq docs man /usr/local/share/man/man1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder := args[0]
			if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // man pages are for everybody
				return fmt.Errorf("write man pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Section: "1", Source: "smpq " + root.Version, Manual: "smpq manual"}
			if err := doc.GenManTree(root, header, folder); err != nil {
				return fmt.Errorf("write man pages into %s: %w", folder, err)
			}
			return nil
		},
	}
}
