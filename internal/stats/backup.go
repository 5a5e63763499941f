package stats

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
)

// The backup has a line for each counter, "name=value". Groups have a line with their
// name and a colon before their counters.
var (
	beforeSets = []string{
		"qCreated", "qSecured", "qDeletedAll", "qDeletedNew", "qDeletedSecured", "qDeletedAllB", "qBlocked", queueCount,
		"qSub", "qSubAllB", "qSubAuth", "qSubDuplicate", "qSubProhibited", "qSubEnd", "qSubEndB",
		"ntfCreated", "ntfNewCreated", "ntfDeleted", "ntfDeletedB", "ntfSub", "ntfSubB", "ntfSubAuth", "ntfSubDuplicate",
		"msgSent", "msgSentAuth", "msgSentQuota", "msgSentLarge", "msgSentBlock", "msgRecv", "msgRecvGet",
		"msgGet", "msgGetNoMsg", "msgGetAuth", "msgGetDuplicate", "msgGetProhibited", "msgExpired", "msgSentNtf", "msgRecvNtf",
		"msgNtfs", "msgNtfsB", "msgNtfNoSub", "msgNtfLost", "msgNtfExpired",
	}
	setGroups     = []string{"activeQueues", "activeQueuesNtf"}
	setFields     = []string{"day", "week", "month"}
	proxyGroups   = []string{"pRelays", "pRelaysOwn", "pMsgFwds", "pMsgFwdsOwn"}
	proxyFields   = []string{"requests", "successes", "errorsConnect", "errorsCompat", "errorsOther"}
	serviceGroups = []string{"rcvServices", "ntfServices"}
	serviceFields = []string{"assocNew", "assocDuplicate", "assocUpdated", "assocRemoved", "subCount", "subDuplicate", "subQueues", "subEnd"}
)

const (
	queueCount   = "qCount" // not a counter: how many queues there are
	assocUpdated = "assocUpdated"
	misspelled   = "assocUpdatedt" // what smp-server calls it
)

// Save writes the backup. Statistics that are not kept across restarts have none.
func (s *Statistics) Save(ctx context.Context) error {
	if !s.o.Daily {
		return nil
	}
	s.refresh(ctx)
	s.saving.Lock()
	defer s.saving.Unlock()
	return writeFile(s.path(BackupName), 0o600, s.writeBackup)
}

// writeFile replaces a file by what write writes.
func writeFile(name string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	f, err := atomicfile.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := bufio.NewWriterSize(f, 64<<10)
	if err := write(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync()); err != nil {
		return err
	}
	return f.Replace()
}

func (s *Statistics) writeBackup(to io.Writer) error {
	s.mu.Lock()
	r := s.report()
	s.mu.Unlock()
	r.numbers[queueCount] = r.Stored.Queues
	w := &lineWriter{to: to}
	w.text("fromTime=" + r.From.UTC().Format(time.RFC3339Nano))
	for _, name := range beforeSets {
		w.number(name, r.Count(name))
	}
	active := &s.o.Router.Counters().ActiveQueues
	for i, group := range setGroups {
		w.text(group + ":")
		for p, field := range setFields {
			w.list(field+"Hashes", active.Hashes(router.Period(p), i == 1))
		}
	}
	for _, group := range proxyGroups {
		w.text(group + ":")
		for _, field := range proxyFields {
			w.number(field, r.Count(group+"."+field))
		}
	}
	w.number("pMsgFwdsRecv", r.Count("pMsgFwdsRecv"))
	for _, group := range serviceGroups {
		w.text(group + ":")
		for _, field := range serviceFields {
			n := r.Count(group + "." + field)
			if field == assocUpdated {
				field = misspelled
			}
			w.number(field, n)
		}
	}
	return w.err
}

// A lineWriter writes lines and keeps its first error.
type lineWriter struct {
	to  io.Writer
	buf []byte
	err error
}

func (w *lineWriter) write() {
	if w.err == nil {
		_, w.err = w.to.Write(w.buf)
	}
	w.buf = w.buf[:0]
}

func (w *lineWriter) text(line string) {
	w.buf = append(append(w.buf, line...), '\n')
	w.write()
}

func (w *lineWriter) number(name string, n int64) {
	w.buf = append(append(w.buf, name...), '=')
	w.buf = append(strconv.AppendInt(w.buf, n, 10), '\n')
	w.write()
}

func (w *lineWriter) list(name string, values []int64) {
	w.buf = append(append(w.buf, name...), '=')
	for i, v := range values {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		w.buf = strconv.AppendInt(w.buf, v, 10)
		if len(w.buf) > 32<<10 {
			w.write()
		}
	}
	w.buf = append(w.buf, '\n')
	w.write()
}

// A backup is what a backup has.
type backup struct {
	from    time.Time
	numbers numbers
	active  [6]queueSet // by period, first all queues
}

// A queueSet is a set of queues. Old backups have ids.
type queueSet struct {
	hashes []int64
	ids    []smp.EntityID
}

// required are those that the oldest backups have.
var required = []string{"fromTime", "qCreated", "qSecured", "msgSent", "msgRecv"}

// oldSets are the names of the sets when there were no groups of them.
var oldSets = map[string]int{"dayMsgQueues": 0, "weekMsgQueues": 1, "monthMsgQueues": 2}

// ignored are names and groups that only old backups have.
var ignored = map[string]bool{"qSubNoMsg": true, "subscribedQueues": true}

// maxBackupLine is how many bytes a line may have: those of all hashes of a set.
const maxBackupLine = 512 << 20

// readBackup reads a backup, also an old one, which has less.
func readBackup(from io.Reader) (*backup, error) {
	p := newBackupParser()
	in := bufio.NewScanner(from)
	in.Buffer(nil, maxBackupLine)
	for n := 1; in.Scan(); n++ {
		if err := p.line(in.Bytes()); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	for _, name := range required {
		if !p.seen[name] {
			return nil, fmt.Errorf("there is no %s", name)
		}
	}
	return &p.backup, nil
}

// A backupParser reads a backup line by line.
type backupParser struct {
	backup
	known map[string]bool // names of counters, with their groups
	seen  map[string]bool
	group string // of the lines that follow
}

func newBackupParser() *backupParser {
	p := &backupParser{known: map[string]bool{queueCount: true}, seen: make(map[string]bool)}
	p.numbers = make(numbers)
	for _, c := range counters() {
		p.known[c.name] = true
	}
	return p
}

var (
	errNoPair  = errors.New("it has no = and is no name of a group")
	errUnknown = errors.New("the name is not known")
	errTwice   = errors.New("it is there for the second time")
)

func (p *backupParser) line(text []byte) error {
	name, value, pair := bytes.Cut(text, []byte("="))
	if !pair {
		group, ok := bytes.CutSuffix(text, []byte(":"))
		if !ok || !p.isGroup(string(group)) {
			return errNoPair
		}
		p.group = string(group)
		return nil
	}
	key := string(name)
	if p.known[key] || key == "fromTime" {
		p.group = "" // these are in no group
	}
	if ignored[key] || ignored[p.group] {
		return nil
	}
	if p.group != "" {
		key = p.group + "." + key
	}
	if p.seen[key] {
		return errTwice
	}
	p.seen[key] = true
	return p.value(key, value)
}

func (p *backupParser) isGroup(name string) bool {
	return name == setGroups[0] || name == setGroups[1] || ignored[name] ||
		p.known[name+"."+proxyFields[0]] || p.known[name+"."+serviceFields[0]]
}

// value takes the value of a key.
func (p *backupParser) value(key string, value []byte) (err error) {
	if key == "fromTime" {
		p.from, err = time.Parse(time.RFC3339Nano, string(value))
		return err
	}
	if i, ok := oldSets[key]; ok {
		p.active[i].ids, err = parseIDs(value)
		return err
	}
	for i, group := range setGroups {
		for j, field := range setFields {
			set := &p.active[i*len(setFields)+j]
			switch key {
			case group + "." + field + "Hashes":
				set.hashes, err = parseHashes(value)
				return err
			case group + "." + field:
				set.ids, err = parseIDs(value)
				return err
			}
		}
	}
	switch key {
	case "qDeleted":
		key = "qDeletedAll"
	case "rcvServices." + misspelled, "ntfServices." + misspelled:
		key = key[:len(key)-1]
	}
	if !p.known[key] {
		return errUnknown
	}
	p.numbers[key], err = strconv.ParseInt(string(value), 10, 64)
	return err
}

func parseHashes(list []byte) (hashes []int64, err error) {
	for field := range bytes.SplitSeq(list, []byte(",")) {
		if len(list) == 0 {
			break
		}
		h, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, h)
	}
	return hashes, nil
}

func parseIDs(list []byte) (ids []smp.EntityID, err error) {
	for field := range bytes.SplitSeq(list, []byte(",")) {
		if len(list) == 0 {
			break
		}
		id, err := smp.ParseEntityID(string(field))
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
