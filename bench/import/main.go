// Command import measures an import of a store log against the least that the
// same rows can cost: psql's \copy of ready-made CSV into a table without
// indexes, and the building of the indexes. Both run in turn on one private
// server. It needs bin/smpq.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/pglocal"
)

func main() {
	var b bench
	flag.Int64Var(&b.queues, "queues", 1_000_000, "queues that the log creates")
	flag.IntVar(&b.linkBytes, "link-bytes", gen.RealLinkBytes, "size of the data of a link")
	flag.IntVar(&b.rounds, "rounds", 3, "measurements of each")
	flag.StringVar(&b.smpq, "smpq", "bin/smpq", "the program to measure")
	temp := flag.String("temp-dir", "/var/tmp", "where to put logs and database: several times the size of the log")
	flag.Parse()
	if err := b.run(context.Background(), *temp); err != nil {
		log.Fatal(err)
	}
}

type bench struct {
	queues    int64
	linkBytes int
	rounds    int
	smpq      string

	dir    string
	server *pglocal.Cluster
	conn   *pgx.Conn
}

// columns are those that an import fills, in the order of COPY.
const columns = "recipient_id, recipient_keys, rcv_dh_secret, sender_id, sender_key, queue_mode, notifier_id, notifier_key, " +
	"rcv_ntf_dh_secret, ntf_service_id, status, updated_at, link_id, rcv_service_id, fixed_data, user_data"

func (b *bench) run(ctx context.Context, temp string) (err error) {
	if b.dir, err = os.MkdirTemp(temp, "smpq-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := os.Chmod(b.dir, 0o755); err != nil { //nolint:gosec // the server may run as another user
		return err
	}
	if b.server, err = pglocal.Start(ctx, pglocal.Options{Dir: filepath.Join(b.dir, "postgres")}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Close(ctx)) }()
	if b.conn, err = pgx.Connect(ctx, b.server.DSN("")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.conn.Close(ctx)) }()

	stats, err := b.writeLog()
	if err != nil {
		return err
	}
	fmt.Printf("log: %d lines, %d MiB, %d queues at its end\n", stats.Lines, stats.Bytes>>20, stats.Queues)

	// The first import warms up, and its rows are those for psql.
	if _, _, err := b.measureImport(ctx); err != nil {
		return err
	}
	if _, err := b.psql(ctx, "\\copy (select "+columns+" from smp_server.msg_queues order by recipient_id) to '"+b.file("rows.csv")+"' csv"); err != nil {
		return err
	}
	indexes, err := b.indexes(ctx)
	if err != nil {
		return err
	}
	var ratios []float64
	for range b.rounds {
		least, err := b.measureCopy(ctx, indexes)
		if err != nil {
			return err
		}
		took, memory, err := b.measureImport(ctx)
		if err != nil {
			return err
		}
		ratio := took.Seconds() / least.Seconds()
		ratios = append(ratios, ratio)
		fmt.Printf("psql %6.2f s   smpq %6.2f s   ratio %.2f   peak memory of smpq %d MiB\n", least.Seconds(), took.Seconds(), ratio, memory>>20)
	}
	slices.Sort(ratios)
	fmt.Printf("median ratio %.2f\n", ratios[len(ratios)/2])
	return nil
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) writeLog() (stats gen.Stats, err error) {
	f, err := os.Create(b.file("store.log"))
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return gen.Write(f, gen.Options{Queues: b.queues, LinkBytes: b.linkBytes})
}

// indexes returns statements for the indexes of the queues, on a table in
// schema plain.
func (b *bench) indexes(ctx context.Context) ([]string, error) {
	rows, err := b.conn.Query(ctx, "select indexdef from pg_indexes where schemaname = 'smp_server' and tablename = 'msg_queues'")
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for i := range list {
		list[i] = strings.Replace(list[i], " ON smp_server.", " ON plain.", 1)
	}
	return list, err
}

// measureCopy measures \copy and the building of the indexes, in one session of
// psql.
func (b *bench) measureCopy(ctx context.Context, indexes []string) (time.Duration, error) {
	err := b.prepare(ctx, "drop schema if exists plain cascade", "create schema plain",
		"create table plain.msg_queues (like smp_server.msg_queues including defaults)")
	if err != nil {
		return 0, err
	}
	return b.psql(ctx, append([]string{"\\copy plain.msg_queues (" + columns + ") from '" + b.file("rows.csv") + "' csv"}, indexes...)...)
}

// measureImport measures an import into a new schema, and its memory.
func (b *bench) measureImport(ctx context.Context) (took time.Duration, memory int64, err error) {
	if err := b.prepare(ctx, "drop schema if exists smp_server cascade"); err != nil {
		return 0, 0, err
	}
	cmd := exec.CommandContext(ctx, b.smpq, "import", "storelog", b.file("store.log"), "--dsn", b.server.DSN(""), "--temp-dir", b.dir, "--quiet") //nolint:gosec // the program to measure
	took, err = measure(cmd)
	if err != nil {
		return 0, 0, err
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0, errors.New("the system does not tell the memory of a process")
	}
	return took, usage.Maxrss << 10, nil // KiB on Linux
}

// prepare makes both measurements start alike: with nothing left to write.
func (b *bench) prepare(ctx context.Context, statements ...string) error {
	for _, sql := range append(statements, "checkpoint") {
		if _, err := b.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func (b *bench) psql(ctx context.Context, commands ...string) (time.Duration, error) {
	args := []string{b.server.DSN(""), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"}
	for _, c := range commands {
		args = append(args, "--command", c)
	}
	return measure(exec.CommandContext(ctx, filepath.Join(b.server.BinDir(), "psql"), args...)) //nolint:gosec // the server's own program
}

func measure(cmd *exec.Cmd) (time.Duration, error) {
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out)
	}
	return time.Since(start), nil
}
