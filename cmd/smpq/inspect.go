package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/inspect"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

func newInspect(console *cli.Console) *cobra.Command {
	return cli.Group("inspect", "Look into the database and into store logs",
		newInspectCounts(console), newInspectQueue(console), newInspectMessages(console), newInspectService(console),
		newInspectLog(console), newInspectCompare(console), newInspectSchema(console))
}

// onSchema works on the schema of a router that a command's flags choose.
func onSchema(ctx context.Context, flags *cli.Connection, command string, work func(*pgx.Conn, store.Schema) error) error {
	return onDatabase(ctx, flags, command, func(conn *pgx.Conn, target *cli.Target) error {
		s, err := store.OpenSchema(ctx, conn, target.Schema)
		if err != nil {
			return err
		}
		return work(conn, s)
	})
}

func newInspectCounts(console *cli.Console) *cobra.Command {
	var estimate bool
	cmd := &cobra.Command{
		Use:   "counts",
		Short: "Count queues, services and messages",
		Long: `Count queues, services and messages: the numbers that a router knows of itself,
and queues by mode and by status. Soft-deleted queues have their own number and
are in no other, except where it says so.

Each table is read once, which takes seconds for millions of queues. --estimate
answers at once, by the statistics that PostgreSQL keeps for its planner.`,
		Example: `  smpq inspect counts
  smpq inspect counts --estimate
  smpq inspect counts -o json | jq .status.blocked`,
		Args: cobra.NoArgs,
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.Flags().BoolVar(&estimate, "estimate", false, "answer from PostgreSQL's statistics, without counting")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		return onSchema(ctx, connection, "inspect counts", func(conn *pgx.Conn, s store.Schema) error {
			r, err := inspect.Counts(ctx, conn, s, estimate)
			if err != nil {
				return err
			}
			return out.Write(cmd.OutOrStdout(), r, countsTable(r))
		})
	}
	return cmd
}

func countsTable(r inspect.CountsReport) cli.Table {
	t := pairs{}
	t.add("schema", r.Schema)
	t.add("version", string(r.Version))
	if r.Estimated {
		t.add("numbers", "estimated")
	}
	t.entities(r.QueueCounts)
	t.number("soft-deleted queues", r.SoftDeleted)
	if r.DamagedNotices > 0 {
		t.number("damaged notices", r.DamagedNotices)
	}
	if m := r.Messages; m != nil {
		t.number("messages", m.Stored)
		t.number("  quota markers", m.QuotaMarkers)
		t.number("queues over quota", m.OverQuota)
		if m.QueueSizes != nil && *m.QueueSizes != m.Stored {
			t.add("problem", fmt.Sprintf("the queues count %s", plural(*m.QueueSizes, "message")))
		}
	}
	return t.table()
}

func newInspectQueue(console *cli.Console) *cobra.Command {
	var (
		by       byFlag
		messages bool
		secrets  bool
	)
	cmd := &cobra.Command{
		Use:   "queue ID",
		Short: "Show a queue by any of its ids",
		Long: `Show a queue. ID is base64url, as in logs: the recipient's, the sender's, the
notifier's or the link's id of the queue. All are tried, unless --by names one.
An address of the queue or a link to it will do, too. Soft-deleted queues are
shown as such.

DH secrets, the data of links and the bodies of messages are left out without
--show-secrets.`,
		Example: `  smpq inspect queue AAECAwQFBgcICQoLDA0ODxAREhMUFRYX
  smpq inspect queue QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX --by notifier
  smpq inspect queue AAECAwQFBgcICQoLDA0ODxAREhMUFRYX --messages -o json`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.Flags().Var(&by, "by", "take ID for the id of this party: recipient, sender, notifier or link")
	cmd.Flags().BoolVar(&messages, "messages", false, "list the messages")
	cmd.Flags().BoolVar(&secrets, "show-secrets", false, "show DH secrets, link data and message bodies")
	completeBy(cmd)
	takesID(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, err := parseQueueID(args[0])
		if err != nil {
			return err
		}
		return onSchema(ctx, connection, "inspect queue", func(conn *pgx.Conn, s store.Schema) error {
			queues, err := inspect.Queue(ctx, conn, s, id.Bytes(), inspect.QueueOptions{By: by, Messages: messages, Secrets: secrets})
			if err != nil {
				return err
			}
			return out.Write(cmd.OutOrStdout(), queuesResult{s.Name, queues}, queuesTable(queues))
		})
	}
	return cmd
}

// A queuesResult is the queues that have an id.
type queuesResult struct {
	Schema string                `json:"schema"`
	Queues []inspect.QueueReport `json:"queues"`
}

// byFlag is a flag's value for one of a queue's ids.
type byFlag []store.By

func (f *byFlag) Set(text string) error {
	for _, by := range store.Bys() {
		if text == string(by) {
			*f = byFlag{by}
			return nil
		}
	}
	return errors.New("want recipient, sender, notifier or link")
}

func (f *byFlag) String() string {
	if len(*f) == 0 {
		return ""
	}
	return string((*f)[0])
}

func (f *byFlag) Type() string { return "party" }

func completeBy(cmd *cobra.Command) {
	var names []string
	for _, by := range store.Bys() {
		names = append(names, string(by))
	}
	if err := cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added before
	}
}

func queuesTable(queues []inspect.QueueReport) cli.Table {
	t := pairs{}
	for i, q := range queues {
		if i > 0 {
			t.add("", "")
		}
		t.queue(q)
	}
	return t.table()
}

func (t *pairs) queue(q inspect.QueueReport) {
	t.found(q.FoundBy, q.State, q.DeletedAt, q.RecipientID)
	t.add("sender id", q.SenderID.String())
	t.add("status", q.Status)
	if b := q.Blocking; b != nil {
		t.add("blocked for", b.Reason)
		switch {
		case b.NoticeTTL != nil:
			t.add("notice", fmt.Sprintf("shown for %d seconds", *b.NoticeTTL))
		case b.Notice:
			t.add("notice", "shown for ever")
		}
	}
	t.add("mode", q.Mode)
	t.add("updated", orNone(q.UpdatedAt))
	for _, k := range q.RecipientKeys {
		t.key("recipient key", &k)
	}
	t.key("sender key", q.SenderKey)
	t.secret("recipient DH secret", q.RcvDHSecret)
	t.add("receiving service", orNone(q.RcvService.String()))
	if n := q.Notifier; n != nil {
		t.add("notifier id", orNone(n.ID.String()))
		t.key("notifier key", n.Key)
		t.secret("notifier DH secret", n.DHSecret)
		t.add("notifier service", orNone(n.Service.String()))
	} else {
		t.add("notifier id", "none")
	}
	if l := q.Link; l != nil {
		t.add("link id", l.ID.String())
		t.add("link data", fmt.Sprintf("%d bytes fixed, %d bytes of the user", l.FixedBytes, l.UserBytes))
		if l.Fixed != "" || l.User != "" {
			t.add("link data, fixed", l.Fixed)
			t.add("link data, user", l.User)
		}
	} else {
		t.add("link id", "none")
	}
	t.messages(q.Messages)
	for _, p := range q.Problems {
		t.add("problem", p)
	}
}

func newInspectMessages(console *cli.Console) *cobra.Command {
	var (
		by    byFlag
		limit int
	)
	cmd := &cobra.Command{
		Use:   "messages ID",
		Short: "Show the messages of a queue, without their bodies",
		Long: `Show the messages of a queue, the oldest first: ids, times, sizes and flags,
never what is in them. ID is base64url, any of the queue's ids, or an address of
the queue or a link to it. The queue may be soft-deleted. If it counts other
messages than it has, that is said.`,
		Example: `  smpq inspect messages AAECAwQFBgcICQoLDA0ODxAREhMUFRYX
  smpq inspect messages AAECAwQFBgcICQoLDA0ODxAREhMUFRYX --limit 5 -o json`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.Flags().Var(&by, "by", "take ID for the id of this party: recipient, sender, notifier or link")
	cmd.Flags().IntVar(&limit, "limit", 0, "list the oldest `n` messages; 0: all")
	completeBy(cmd)
	takesID(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, err := parseQueueID(args[0])
		if err != nil {
			return err
		}
		if limit < 0 {
			return cli.UsageErrorf("--limit is negative")
		}
		return onSchema(ctx, connection, "inspect messages", func(conn *pgx.Conn, s store.Schema) error {
			r, err := inspect.QueueMessages(ctx, conn, s, id.Bytes(), by, cmp.Or(limit, math.MaxInt))
			if err != nil {
				return err
			}
			for _, p := range r.Problems {
				console.Log().LogAttrs(ctx, slog.LevelWarn, p)
			}
			return out.Write(cmd.OutOrStdout(), messagesResult{s.Name, r}, messagesTable(r))
		})
	}
	return cmd
}

// A messagesResult is the messages of a queue.
type messagesResult struct {
	Schema string `json:"schema"`
	inspect.MessagesReport
}

func messagesTable(r inspect.MessagesReport) cli.Table {
	t := pairs{}
	t.found(r.FoundBy, r.State, r.DeletedAt, r.RecipientID)
	t.messageCounts(r.MessageCounts)
	for _, m := range r.Messages {
		t.add(m.ID.String(), messageText(m))
	}
	if more := r.Stored - int64(len(r.Messages)); more > 0 {
		t.add("…", fmt.Sprintf("%d more", more))
	}
	return t.table()
}

// found says which queue was found, and how.
func (t *pairs) found(by []store.By, state, deletedAt string, id queue.RecipientID) {
	ids := make([]string, len(by))
	for i, b := range by {
		ids[i] = string(b)
	}
	t.add("found by", strings.Join(ids, ", ")+" id")
	if deletedAt != "" {
		state += " on " + deletedAt
	}
	t.add("state", state)
	t.add("recipient id", id.String())
}

func messageText(m inspect.MessageInfo) string {
	text := fmt.Sprintf("%s  %d bytes", m.Time, m.Bytes)
	if m.QuotaMarker {
		text = m.Time + "  quota marker"
	}
	if m.Notify {
		text += ", notify"
	}
	return text
}

func (t *pairs) messageCounts(m inspect.MessageCounts) {
	t.number("messages", m.Stored)
	if m.Stored > 0 {
		t.number("  quota markers", m.QuotaMarkers)
		t.add("  size", cli.FormatBytes(m.BodyBytes))
		t.add("  oldest", m.Oldest)
		t.add("  newest", m.Newest)
	}
	if m.CanWrite {
		t.add("senders can write", "yes")
	} else {
		t.add("senders can write", "no, over quota")
	}
}

func (t *pairs) messages(m *inspect.Messages) {
	if m == nil {
		return
	}
	t.messageCounts(m.MessageCounts)
	for _, msg := range m.List {
		t.add("message", msg.ID.String()+"  "+messageText(msg.MessageInfo))
		if msg.Body != "" {
			t.add("", msg.Body)
		}
	}
}

func (t *pairs) key(name string, k *inspect.Key) {
	if k == nil {
		t.add(name, "none")
		return
	}
	t.add(name, k.Key.String()+" ("+k.Algorithm+")")
}

func (t *pairs) secret(name, value string) {
	if value == "" {
		value = "hidden, see --show-secrets"
	}
	t.add(name, value)
}

func newInspectService(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service ID",
		Short: "Show a service, or list all",
		Long: `Show a service: its role, its certificates, and how many queues are associated
with it. ID is base64url. "smpq inspect service list" shows all services.

In schemas from 20250915_queue_ids_hash on, a service knows the number and the
hash of its queues. They are compared with the queues that there are.`,
		Example: `  smpq inspect service list
  smpq inspect service gIGCg4SFhoeIiYqLjI2Oj5CRkpOUlZaX`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	takesID(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, err := parseID(args[0])
		if err != nil {
			return err
		}
		return onSchema(ctx, connection, "inspect service", func(conn *pgx.Conn, s store.Schema) error {
			r, err := inspect.Service(ctx, conn, s, queue.ServiceID{EntityID: id})
			if err != nil {
				return err
			}
			return out.Write(cmd.OutOrStdout(), r, serviceTable(r))
		})
	}
	cmd.AddCommand(newInspectServiceList(console))
	return cmd
}

func newInspectServiceList(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all services",
		Example: `  smpq inspect service list
  smpq inspect service list -o csv`,
		Args: cobra.NoArgs,
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		return onSchema(ctx, connection, "inspect service list", func(conn *pgx.Conn, s store.Schema) error {
			services, err := inspect.Services(ctx, conn, s)
			if err != nil {
				return err
			}
			return out.Write(cmd.OutOrStdout(), servicesResult{s.Name, services}, servicesTable(services))
		})
	}
	return cmd
}

// A servicesResult is all services of a schema.
type servicesResult struct {
	Schema   string                  `json:"schema"`
	Services []inspect.ServiceReport `json:"services"`
}

func servicesTable(services []inspect.ServiceReport) cli.Table {
	t := cli.Table{Columns: []string{"service_id", "role", "created_at", "queues", "problems"}}
	for _, s := range services {
		t.Add(s.ID.String(), s.Role, s.CreatedAt, strconv.FormatInt(s.RcvQueues+s.NtfQueues, 10), strconv.Itoa(len(s.Problems)))
	}
	return t
}

func serviceTable(r inspect.ServiceReport) cli.Table {
	t := pairs{}
	t.add("service id", r.ID.String())
	t.add("role", r.Role)
	t.add("created", r.CreatedAt)
	t.add("certificate hash", r.CertHash)
	for _, c := range r.Certificates {
		if c.Subject == "" {
			t.add("certificate", c.SHA256+", not understood")
			continue
		}
		t.add("certificate", c.Subject)
		t.add("", "valid "+c.NotBefore+" to "+c.NotAfter)
	}
	t.number("queues, as receiving service", r.RcvQueues)
	t.number("queues, as notifier service", r.NtfQueues)
	if r.Stored != nil {
		t.number("queues in its row", r.Stored.Queues)
		t.add("hash of ids in its row", r.Stored.IDsHash)
	}
	if r.Counted != nil {
		t.add("hash of ids, counted", r.Counted.IDsHash)
	}
	for _, p := range r.Problems {
		t.add("problem", p)
	}
	return t.table()
}

func newInspectLog(console *cli.Console) *cobra.Command {
	var o inspect.LogOptions
	cmd := &cobra.Command{
		Use:   "log FILE",
		Short: "Show what a store log holds and what is wrong with it",
		Long: `Show what a store log holds and what is wrong with it, without a database: the
numbers of the queues and services that a router has after it has read the log,
and the lines that cannot be read or applied. The log is only read. FILE may be
-, for standard input.

If an import would have to leave something out, the exit status is 3. The text
of bad lines may hold secrets and is left out without --show-secrets. Sorting
the log needs about its size in temporary files, in $TMPDIR or else /var/tmp.`,
		Example: `  smpq inspect log /var/opt/simplex/smp-server-store.log
  smpq inspect log old.log --problems 1000 -o json
  zcat store.log.gz | smpq inspect log -`,
		Args: cobra.ExactArgs(1),
	}
	out := cli.AddOutputFlag(cmd)
	cmd.Flags().IntVar(&o.Problems, "problems", 10, "show the first `n` lines with problems of each kind")
	cmd.Flags().BoolVar(&o.Secrets, "show-secrets", false, "show the text of lines with problems")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.Problems < 0 {
			return cli.UsageErrorf("--problems is negative")
		}
		limitMemory()
		progress := console.Progress()
		defer progress.Close()
		o.TempDir, o.Progress = tempDir(), progress
		r, err := inspect.Log(cmd.Context(), logName(args[0]), o)
		if err != nil {
			return err
		}
		progress.Close()
		if err := out.Write(cmd.OutOrStdout(), r, logTable(r)); err != nil {
			return err
		}
		if n := r.Rejected(); n > 0 {
			return cli.WithCode(cli.ExitRejected, fmt.Errorf("%s: an import would leave out %s", r.File, plural(n, "record")))
		}
		return nil
	}
	return cmd
}

func newInspectCompare(console *cli.Console) *cobra.Command {
	var o inspect.CompareOptions
	cmd := &cobra.Command{
		Use:   "compare FILE",
		Short: "Compare a store log with the database",
		Long: `Compare what a store log ends with, its live queues and its services, with those
in the database, value by value: a router can write a store log beside its
database, which may lack what could not be written to it. Messages are not
compared. Log and database are only read. FILE may be -, for standard input.

If they differ, the exit status is 4. Of a router that runs, the database may be
ahead of the log. Sorting the log needs about its size in temporary files, in
$TMPDIR or else /var/tmp.`,
		Example: `  smpq inspect compare /var/opt/simplex/smp-server-store.log
  smpq inspect compare store.log --config smp-server.ini --first 1000 -o json`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.Flags().IntVar(&o.First, "first", 10, "show the first `n` differences")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.First < 0 {
			return cli.UsageErrorf("--first is negative")
		}
		ctx := cmd.Context()
		limitMemory()
		return onSchema(ctx, connection, "inspect compare", func(conn *pgx.Conn, s store.Schema) error {
			progress := console.Progress()
			defer progress.Close()
			o.TempDir, o.Progress = tempDir(), progress
			r, err := inspect.Compare(ctx, conn, s, logName(args[0]), o)
			if err != nil {
				return err
			}
			progress.Close()
			if err := out.Write(cmd.OutOrStdout(), r, compareTable(r)); err != nil {
				return err
			}
			switch {
			case !r.Equal:
				return cli.WithCode(cli.ExitDifferent, fmt.Errorf("log and database differ: %s has %s and %s, schema %s has %s and %s",
					r.File, plural(r.Queues.Log, "queue"), plural(r.Services.Log, "service"),
					r.Schema, plural(r.Queues.Database, "queue"), plural(r.Services.Database, "service")))
			case r.Rejected > 0:
				return cli.WithCode(cli.ExitRejected, fmt.Errorf("%s: an import would leave out %s", r.File, plural(r.Rejected, "record")))
			}
			return nil
		})
	}
	return cmd
}

func compareTable(r inspect.CompareReport) cli.Table {
	t := pairs{}
	if r.Equal {
		t.add("result", "equal")
	} else {
		t.add("result", "different")
	}
	t.add("file", r.File)
	if r.Unfinished {
		t.add("note", "an unfinished compaction left this file, and a router reads it first")
	}
	if r.Changed {
		t.add("note", "the log was written to meanwhile: what was added is not compared")
	}
	t.add("schema", r.Schema)
	if r.Rejected > 0 {
		t.number("rejected by an import", r.Rejected)
	}
	t.comparison("queues", r.Queues)
	t.comparison("services", r.Services)
	for _, d := range r.Differences {
		where := "only in the " + d.In
		if d.In == "both" {
			where = "has other values"
		}
		t.add(d.Kind, d.ID+"  "+where)
	}
	n := r.Queues.Differences() + r.Services.Differences()
	if more := n - int64(len(r.Differences)); more > 0 && len(r.Differences) > 0 {
		t.add("…", fmt.Sprintf("%d more", more))
	}
	return t.table()
}

func (t *pairs) comparison(what string, c inspect.Comparison) {
	t.number(what+" in the log", c.Log)
	t.number(what+" in the database", c.Database)
	if c.Differences() > 0 {
		t.number("  only in the log", c.OnlyInLog)
		t.number("  only in the database", c.OnlyInDatabase)
		t.number("  with other values", c.Different)
	}
}

// logName returns the name under which a log is opened: "-" is standard input.
func logName(operand string) string {
	if operand == "-" {
		return "/dev/stdin"
	}
	return operand
}

func logTable(r inspect.LogReport) cli.Table {
	t := pairs{}
	t.add("file", r.File)
	if r.Unfinished {
		t.add("note", "an unfinished compaction left this file, and a router reads it first")
	}
	if r.Changed {
		t.add("note", "the log was written to meanwhile: the numbers are those of its earlier length")
	}
	t.add("size", cli.FormatBytes(r.Bytes))
	t.number("lines", r.Lines)
	for _, tag := range slices.Sorted(maps.Keys(r.Records)) {
		t.number("  "+tag, r.Records[tag])
	}
	t.entities(r.QueueCounts)
	if len(r.Problems) == 0 {
		t.add("problems", "none")
	}
	for _, p := range r.Problems {
		t.add(strings.ReplaceAll(p.Kind, "_", " "), fmt.Sprintf("%d, %s", p.Count, problemEffect(p)))
		for _, f := range p.First {
			place := fmt.Sprintf("  line %d", f.Line)
			if f.Column > 0 {
				place += fmt.Sprintf(", column %d", f.Column)
			}
			t.add(place, f.Reason)
			if text := f.Text + string(f.Raw); text != "" {
				t.add("", text)
			}
		}
		if more := p.Count - int64(len(p.First)); more > 0 && len(p.First) > 0 {
			t.add("  …", fmt.Sprintf("%d more", more))
		}
	}
	return t.table()
}

// problemEffect says what becomes of records with a kind of problem.
func problemEffect(p inspect.LogProblems) string {
	switch {
	case p.Loses:
		return "rejected by an import"
	case p.Kind == "late":
		return "of no effect, as the queue is gone"
	default:
		return "applied as it stands"
	}
}

func newInspectSchema(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Show version, sizes, index use and dead rows",
		Long: `Show the version of the schema and the releases of smp-server that accept it,
and of its tables and indexes: sizes, how often PostgreSQL has used an index,
dead rows, and when they were vacuumed and analyzed. Only the catalogs are read;
numbers of rows are PostgreSQL's estimates.

The exit status is 1 if something is wrong with the schema.`,
		Example: `  smpq inspect schema
  smpq inspect schema --dsn postgresql://smp@/smp_server_store -o yaml`,
		Args: cobra.NoArgs,
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		return onDatabase(ctx, connection, "inspect schema", func(conn *pgx.Conn, target *cli.Target) error {
			r, refused := inspect.Schema(ctx, conn, target.Schema)
			if refused != nil && len(r.Problems) == 0 {
				return refused
			}
			if err := out.Write(cmd.OutOrStdout(), r, schemaTable(r)); err != nil {
				return err
			}
			return refused
		})
	}
	return cmd
}

func schemaTable(r inspect.SchemaReport) cli.Table {
	t := pairs{}
	t.add("schema", r.Schema)
	t.add("owner", r.Owner)
	t.add("version", orNone(string(r.Version)))
	t.add("accepted by", releasesText(r.Releases))
	for _, p := range r.Problems {
		t.add("problem", p.Detail)
	}
	for _, d := range r.Differences {
		t.add("difference", d.String())
	}
	for _, n := range r.Notes {
		t.add("note", n)
	}
	t.add("size", cli.FormatBytes(r.TotalBytes))
	for _, table := range r.Tables {
		rows := "rows not known"
		if table.Rows != nil {
			rows = fmt.Sprintf("about %d rows", *table.Rows)
		}
		t.add("table "+table.Name, fmt.Sprintf("%s, %d dead, %s", rows, table.DeadRows, cli.FormatBytes(table.TotalBytes)))
		t.add("  without indexes", fmt.Sprintf("%s rows, %s long values", cli.FormatBytes(table.RowBytes), cli.FormatBytes(table.ToastBytes)))
		t.add("  vacuumed", timeOrNever(table.LastVacuum))
		t.add("  analyzed", timeOrNever(table.LastAnalyze))
		for _, i := range r.Indexes {
			if i.Table != table.Name {
				continue
			}
			text := fmt.Sprintf("%s, %d scans", cli.FormatBytes(i.Bytes), i.Scans)
			if !i.Valid {
				text += ", not valid: an index build failed"
			}
			t.add("  "+i.Name, text)
		}
	}
	return t.table()
}

// pairs are the rows of a table of names and values.
type pairs [][]string

func (t *pairs) add(name, value string)      { *t = append(*t, []string{name, value}) }
func (t *pairs) number(name string, n int64) { t.add(name, strconv.FormatInt(n, 10)) }
func (t *pairs) table() cli.Table {
	return cli.Table{Columns: []string{"name", "value"}, Rows: *t, Plain: true}
}

// entities adds the numbers that a database and a log have in common.
func (t *pairs) entities(e store.QueueCounts) {
	t.number("queues", e.Queues)
	t.number("  secured", e.Secured)
	t.number("  with a notifier", e.Notifiers)
	t.number("  with a link", e.Links)
	t.number("  with a receiving service", e.RcvServiceQueues)
	t.number("  with a notifier service", e.NtfServiceQueues)
	t.number("  mode messaging", e.Mode.Messaging)
	t.number("  mode contact", e.Mode.Contact)
	t.number("  mode unknown", e.Mode.Unknown)
	t.number("  active", e.Status.Active)
	t.number("  off", e.Status.Off)
	t.number("  blocked", e.Status.Blocked)
	if e.Status.Blocked > 0 {
		t.number("    for spam", e.Status.Spam)
		t.number("    for content", e.Status.Content)
		t.number("    with a notice", e.Status.Notice)
	}
	if e.Status.Unreadable > 0 {
		t.number("  with an unreadable status", e.Status.Unreadable)
	}
	t.number("receiving services", e.RcvServices)
	t.number("notifier services", e.NtfServices)
	if e.ProxyServices > 0 {
		t.number("proxy services", e.ProxyServices)
	}
}

// plural renders a number of things: "1 queue", "2 queues".
func plural(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func orNone(text string) string { return cmp.Or(text, "none") }

func timeOrNever(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// parseID reads an id that the operator names.
func parseID(text string) (smp.EntityID, error) {
	id, err := smp.ParseEntityID(text)
	if err == nil {
		return id, nil
	}
	if want := base64.RawURLEncoding.EncodedLen(smp.IDSize); len(text) != want {
		err = fmt.Errorf("%w; ids have %d characters, this has %d", err, want, len(text))
	}
	return id, cli.UsageErrorf("%q is not an id in base64url: %w", text, err)
}

// parseQueueID reads an id of a queue that the operator names, or takes it out of an
// address.
func parseQueueID(text string) (smp.EntityID, error) {
	if !smp.IsAddress(text) {
		return parseID(text)
	}
	id, err := smp.ParseQueueID(text)
	if err != nil {
		return id, cli.UsageErrorf("wrong address: %w", err)
	}
	return id, nil
}

// idAnnotation marks the commands that take an id as their argument.
const idAnnotation = "smpq.id"

// takesID says that a command takes an id as its argument. One in 64 ids begins
// with a hyphen: see [protectIDs].
func takesID(cmd *cobra.Command) {
	cmd.Annotations = map[string]string{idAnnotation: ""}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if _, unknown := errors.AsType[*pflag.NotExistError](err); unknown {
			err = fmt.Errorf("%w (an id that begins with a hyphen goes to the end, after --)", err)
		}
		return err
	})
}

// protectIDs returns the arguments of smpq with the ids that look like flags
// moved to the end, behind "--", where they are not taken for flags. An argument
// is an id if the command takes one, and it has the length of one and only the
// characters of base64url.
func protectIDs(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	if _, ok := cmd.Annotations[idAnnotation]; !ok {
		return args
	}
	var others, ids []string
	for i, arg := range args {
		if arg == "--" {
			return append(append(others, "--"), append(ids, args[i+1:]...)...)
		}
		if id, err := smp.ParseEntityID(arg); err == nil && id.Len() == smp.IDSize && strings.HasPrefix(arg, "-") {
			ids = append(ids, arg)
		} else {
			others = append(others, arg)
		}
	}
	if len(ids) == 0 {
		return args
	}
	return append(append(others, "--"), ids...)
}
