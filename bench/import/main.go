// Command import compares "smpq import storelog" with what PostgreSQL's own
// client needs to bring the same rows into the database: psql's \copy of a CSV
// file into tables without indexes, and then the indexes, keys and constraints
// of the schema.
//
// All runs take place on one private server, in turns. The log is synthetic; the
// CSV files have the rows that smpq made of it, in the same order, and are
// rendered before anything is measured. psql copies twice: once as an operator
// would, into tables that are there, and once with all that helps PostgreSQL, in
// one transaction with TRUNCATE, which saves the write-ahead log, and with FREEZE.
//
// For psql the clock does not count what smpq does beside: parsing and replaying
// the log, making the schema, ANALYZE, and comparing every value afterwards.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/pglocal"
	"github.com/smpq/smpq/internal/schema"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/import:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context) (err error) {
	var b benchmark
	flag.Int64Var(&b.log.Queues, "queues", 100_000, "number of queues in the log")
	flag.IntVar(&b.log.LinkBytes, "link-bytes", gen.RealLinkBytes, "bytes of data of each link")
	flag.IntVar(&b.runs, "runs", 3, "number of runs of each kind")
	flag.StringVar(&b.smpq, "smpq", "bin/smpq", "the program to measure")
	within := flag.String("dir", "/var/tmp", "folder for the data, which is removed afterwards")
	flag.Parse()

	if b.dir, err = os.MkdirTemp(*within, "smpq-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	// The server does not run as root.
	if err := os.Chmod(b.dir, 0o755); err != nil { //nolint:gosec // nothing in it is secret
		return err
	}
	server, err := pglocal.Start(ctx, pglocal.Options{Dir: filepath.Join(b.dir, "postgres")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close(context.WithoutCancel(ctx))) }()
	b.dsn, b.psql = server.DSN(""), filepath.Join(server.BinDir(), "psql")
	if b.conn, err = pgx.Connect(ctx, b.dsn); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.conn.Close(context.WithoutCancel(ctx))) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for range b.runs {
		if err := b.measure(ctx); err != nil {
			return err
		}
	}
	return b.report(os.Stdout)
}

// A benchmark is one comparison.
type benchmark struct {
	log  gen.Options
	runs int
	smpq string
	dir  string
	psql string
	dsn  string
	conn *pgx.Conn

	logBytes, csvBytes, rows int64
	copied, frozen, imported []outcome
}

// An outcome is what one run took.
type outcome struct {
	load    time.Duration // COPY, or all of the import
	indexes time.Duration // psql only
	memory  int64         // the program's peak, in bytes
}

func (o outcome) total() time.Duration { return o.load + o.indexes }

func (b *benchmark) file(name string) string { return filepath.Join(b.dir, name) }

// prepare makes the log and, from the rows that smpq makes of it, the CSV files.
func (b *benchmark) prepare(ctx context.Context) error {
	log, err := os.Create(b.file("store.log"))
	if err != nil {
		return err
	}
	stats, err := gen.Write(log, b.log)
	if err = errors.Join(err, log.Close()); err != nil {
		return err
	}
	b.logBytes = stats.Bytes
	if _, err := b.importLog(ctx, "rows"); err != nil {
		return err
	}
	for _, table := range tables {
		name := b.file(table.name + ".csv")
		if err := b.runPsql(ctx, fmt.Sprintf(`\copy rows.%s (%s) to '%s' (format csv)`, table.name, table.columns, name)); err != nil {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		b.csvBytes += info.Size()
	}
	if err := b.conn.QueryRow(ctx, "select count(*) from rows.msg_queues").Scan(&b.rows); err != nil {
		return err
	}
	return b.drop(ctx, "rows")
}

// tables are the tables with their columns that come from the log.
var tables = []struct{ name, columns string }{
	{"services", "service_id, service_role, service_cert, service_cert_hash, created_at, queue_count, queue_ids_hash"},
	{"msg_queues", "recipient_id, recipient_keys, rcv_dh_secret, sender_id, sender_key, queue_mode, notifier_id, notifier_key, " +
		"rcv_ntf_dh_secret, ntf_service_id, status, updated_at, link_id, rcv_service_id, fixed_data, user_data"},
}

// measure makes one run of each kind, each from the same start.
func (b *benchmark) measure(ctx context.Context) error {
	for _, kind := range []struct {
		run func(ctx context.Context, name string) (outcome, error)
		to  *[]outcome
	}{
		{b.copyPlain, &b.copied},
		{b.importLog, &b.imported},
		{b.copyFrozen, &b.frozen},
		{b.importLog, &b.imported},
	} {
		const name = "bench"
		o, err := kind.run(ctx, name)
		if err != nil {
			return err
		}
		*kind.to = append(*kind.to, o)
		if err := b.drop(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// drop removes a schema and leaves nothing for the server to do.
func (b *benchmark) drop(ctx context.Context, name string) error {
	if _, err := b.conn.Exec(ctx, "drop schema "+schema.Quote(name)+" cascade"); err != nil {
		return err
	}
	_, err := b.conn.Exec(ctx, "checkpoint")
	return err
}

// importLog runs smpq.
func (b *benchmark) importLog(ctx context.Context, name string) (outcome, error) {
	cmd := exec.CommandContext(ctx, b.smpq, "import", "storelog", b.file("store.log"), "--dsn", b.dsn, "--schema", name, "--temp-dir", b.dir, "--quiet") //nolint:gosec // the program to measure
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return outcome{}, fmt.Errorf("%s: %w", cmd, err)
	}
	o := outcome{load: time.Since(start)}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		o.memory = usage.Maxrss << 10 // it is in KiB
	}
	return o, nil
}

// copyPlain copies the files into tables that are there.
func (b *benchmark) copyPlain(ctx context.Context, name string) (outcome, error) {
	return b.copyFiles(ctx, name, "", "format csv")
}

// copyFrozen copies the files in the transaction that has emptied the tables.
func (b *benchmark) copyFrozen(ctx context.Context, name string) (outcome, error) {
	return b.copyFiles(ctx, name, "truncate "+name+".msg_queues, "+name+".services, "+name+".messages;\n", "format csv, freeze")
}

func (b *benchmark) copyFiles(ctx context.Context, name, before, options string) (o outcome, err error) {
	if _, err := schema.Migrate(ctx, b.conn, name, schema.Newest, schema.Options{}); err != nil {
		return o, err
	}
	var detached *schema.Detached
	err = pgx.BeginFunc(ctx, b.conn, func(tx pgx.Tx) (err error) {
		detached, err = schema.Detach(ctx, tx, name, "msg_queues", "services")
		return err
	})
	if err != nil {
		return o, err
	}
	var script strings.Builder
	script.WriteString(before)
	for _, table := range tables {
		fmt.Fprintf(&script, "\\copy %s.%s (%s) from '%s' (%s)\n", name, table.name, table.columns, b.file(table.name+".csv"), options)
	}
	start := time.Now()
	if err := b.runPsql(ctx, script.String()); err != nil {
		return o, err
	}
	o.load = time.Since(start)
	start = time.Now()
	err = pgx.BeginFunc(ctx, b.conn, func(tx pgx.Tx) error { return detached.Restore(ctx, tx, nil) })
	o.indexes = time.Since(start)
	return o, err
}

// runPsql executes a script in one transaction.
func (b *benchmark) runPsql(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, b.psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file=-", b.dsn) //nolint:gosec // the server's own
	cmd.Stdin, cmd.Stderr = strings.NewReader(script), os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("psql: %w", err)
	}
	return nil
}

// report prints the medians.
func (b *benchmark) report(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%d queues: log of %s; %d rows, as CSV %s; %d runs, medians\n\n",
		b.log.Queues, mib(b.logBytes), b.rows, mib(b.csvBytes), b.runs)
	const row = "%-20s %10s %10s %10s %12s %12s\n"
	fmt.Fprintf(&text, row, "", "copy", "indexes", "total", "smpq takes", "peak memory")
	smpq := median(b.imported)
	for _, k := range []struct {
		name string
		runs []outcome
	}{
		{`psql \copy`, b.copied},
		{`psql \copy, frozen`, b.frozen},
	} {
		o := median(k.runs)
		fmt.Fprintf(&text, row, k.name, seconds(o.load), seconds(o.indexes), seconds(o.total()),
			fmt.Sprintf("%.2f times", smpq.total().Seconds()/o.total().Seconds()), "")
	}
	peak := slices.MaxFunc(b.imported, func(x, y outcome) int { return cmp.Compare(x.memory, y.memory) }).memory
	fmt.Fprintf(&text, row, "smpq import storelog", "", "", seconds(smpq.total()), "", mib(peak))
	_, err := io.WriteString(w, text.String())
	return err
}

// median returns the run in the middle.
func median(runs []outcome) outcome {
	sorted := slices.SortedFunc(slices.Values(runs), func(x, y outcome) int { return cmp.Compare(x.total(), y.total()) })
	return sorted[len(sorted)/2]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func mib(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
