package main

import (
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
)

// newRoot returns the command smpq with all its commands.
func newRoot(console *cli.Console) *cobra.Command {
	root := &cobra.Command{
		Use:   "smpq",
		Short: "Work on the queue database of a SimpleX message router",
		Long: `smpq moves, checks, compacts and inspects the queue database of a SimpleX
message router (smp-server).

Results go to standard output, everything else to standard error. The exit
status is 0 if all was done, 1 if it failed, 2 for wrong usage, 3 if it was done
but records were rejected, 4 if a verification found differences, 5 if the
database or a lock is not available, 130 after an interrupt, and 141 if the
reader of its output left before the end.`,
		Version:       readBuild().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	console.AddFlags(root)
	root.AddCommand(
		newInit(console),
		newCert(),
		newImport(console),
		newExport(console),
		newInspect(console),
		newQueue(console),
		newAddress(),
		newServe(console),
		newProbe(console),
		newBench(console),
		newCompact(console),
		newMigrate(console),
		newLocal(console),
		newVersion(),
		newDocs(),
		newGen(console),
	)
	return root
}
