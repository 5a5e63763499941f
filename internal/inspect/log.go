package inspect

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// LogOptions say how to inspect a store log.
type LogOptions struct {
	TempDir  string // for temporary files as large as the log; empty: the system's
	Problems int    // how many problems of each kind to report with their place
	Secrets  bool   // with the text of the lines that have problems

	// Progress is told of bytes and queues. It may be nil.
	Progress Progress
}

// A Progress is told how far a long inspection has come.
type Progress interface {
	// Phase begins a part of the work: total units, which are called unit.
	Phase(name string, total int64, unit string)
	// Add says that n more units are done.
	Add(n int64)
}

// A reporter tells of progress those who want to know.
type reporter struct{ to Progress }

func (r reporter) phase(name string, total int64, unit string) {
	if r.to != nil {
		r.to.Phase(name, total, unit)
	}
}

func (r reporter) add(n int64) {
	if r.to != nil {
		r.to.Add(n)
	}
}

// A LogReport is what a router holds after it has read a store log, and what is
// wrong with the log.
type LogReport struct {
	File       string           `json:"file"`       // the one that was read
	Unfinished bool             `json:"unfinished"` // it is the ".start" file of the one that was asked for
	Changed    bool             `json:"changed"`    // it was written to meanwhile
	Bytes      int64            `json:"bytes"`
	Lines      int64            `json:"lines"`
	Records    map[string]int64 `json:"records"` // by tag; lines that are no records have none

	// What is left after the last line, of which an import makes rows.
	store.QueueCounts

	Problems []LogProblems `json:"problems"` // by kind
}

// LogProblems are the problems of one kind.
type LogProblems struct {
	Kind  string       `json:"kind"`  // "malformed", "refused", "shared_link", "unknown_service", "late" or "unterminated"
	Loses bool         `json:"loses"` // something in the log has no effect: an import rejects it
	Count int64        `json:"count"`
	First []LogProblem `json:"first"` // the first ones, by line
}

// A LogProblem is one problem.
type LogProblem struct {
	Line   int64  `json:"line"`             // counted from 1
	Column int    `json:"column,omitempty"` // counted from 1; absent: the whole line
	Offset int64  `json:"offset"`           // bytes before the line
	Reason string `json:"reason"`

	// Text is what was not applied, a line or a part of one. Secret. Raw is the
	// same, in base64, if it is not UTF-8.
	Text string `json:"text,omitempty"`
	Raw  []byte `json:"raw,omitempty"`
}

// Rejected returns how many problems lose something.
func (r *LogReport) Rejected() int64 {
	var n int64
	for _, p := range r.Problems {
		if p.Loses {
			n += p.Count
		}
	}
	return n
}

// Log replays a store log, as a router does at its start and as an import does,
// and reports what comes of it. The file is only read.
func Log(ctx context.Context, name string, o LogOptions) (_ LogReport, err error) {
	f, err := storelog.Open(name)
	if err != nil {
		return LogReport{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := logInspection{o: o, report: LogReport{File: f.Name(), Unfinished: f.Unfinished()}}
	if err := in.replay(ctx, f); err != nil {
		return LogReport{}, err
	}
	in.report.Changed, err = f.Changed()
	return in.report, err
}

// A logInspection is a report in the making.
type logInspection struct {
	o        LogOptions
	report   LogReport
	problems [storelog.Unterminated + 1]LogProblems // by kind
}

func (in *logInspection) replay(ctx context.Context, f *storelog.File) (err error) {
	r := &in.report
	tell := reporter{in.o.Progress}
	tell.phase("reading", f.Size(), "bytes")
	state, err := storelog.Replay(ctx, f, storelog.Options{
		TempDir:     in.o.TempDir,
		OnProblem:   in.problem,
		Progress:    tell.add,
		ForDatabase: true,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()

	counts := state.Counts()
	r.Lines, r.Bytes, r.Records = counts.Lines, counts.Bytes, counts.Records
	for _, sv := range state.Services() {
		r.AddService(sv.Role, 1)
	}
	tell.phase("replaying", counts.Records["CREATE"], "queues")
	for q, err := range state.Queues(ctx) {
		if err != nil {
			return err
		}
		r.AddQueue(q)
		tell.add(1)
	}
	r.Problems = []LogProblems{}
	for _, p := range in.problems {
		if p.Count > 0 {
			r.Problems = append(r.Problems, p)
		}
	}
	return nil
}

// problem takes note of a problem. They do not come in the order of lines.
func (in *logInspection) problem(p storelog.Problem) error {
	ps := &in.problems[p.Kind]
	if ps.Count == 0 {
		ps.Kind, ps.Loses = strings.ReplaceAll(p.Kind.String(), " ", "_"), p.Kind.Loses()
		ps.First = []LogProblem{}
	}
	ps.Count++
	at, _ := slices.BinarySearchFunc(ps.First, p.Line, func(have LogProblem, line int64) int { return cmp.Compare(have.Line, line) })
	if at >= in.o.Problems {
		return nil
	}
	lp := LogProblem{Line: p.Line, Column: p.Column, Offset: p.Offset, Reason: p.Reason}
	switch {
	case !in.o.Secrets:
	case utf8.Valid(p.Text):
		lp.Text = string(p.Text)
	default:
		lp.Raw = p.Text
	}
	ps.First = slices.Insert(ps.First, at, lp)
	ps.First = ps.First[:min(len(ps.First), in.o.Problems)]
	return nil
}
