package client

import (
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// hexBytes are written in hexadecimal digits.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// A received is the content of a block that a real router sent.
type received struct {
	version smp.Version
	content []byte
}

// transcript returns what clients received after the handshake in a transcript; see
// testdata/README.md.
func transcript(file string) (all []received, err error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	versions := map[string]smp.Version{} // by session
	for d := json.NewDecoder(z); ; {
		var e struct {
			Kind    string      `json:"ev"`
			Role    string      `json:"role"`
			Session hexBytes    `json:"session"`
			Version smp.Version `json:"version"`
			Plain   hexBytes    `json:"plain"`
		}
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case e.Role != "client":
		case e.Kind == "session":
			versions[string(e.Session)] = e.Version
		case e.Kind == "get" && versions[string(e.Session)] != 0 && len(e.Plain) > 0:
			all = append(all, received{versions[string(e.Session)], e.Plain})
		}
	}
}

// addReceived adds what real routers sent to the seeds: one block of each
// combination of responses in each version.
func addReceived(f *testing.F) {
	f.Helper()
	files, err := filepath.Glob("../../testdata/smp-server-6.5.5/7-wire/*.jsonl.gz")
	if err != nil || len(files) == 0 {
		f.Fatalf("no transcripts: %v", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		blocks, err := transcript(file)
		if err != nil {
			f.Fatalf("%s: %v", file, err)
		}
		for _, b := range blocks {
			parts, err := smp.SplitContent(nil, b.content)
			if err != nil {
				continue // the transcripts have such blocks too
			}
			form := fmt.Sprint(b.version)
			var entity smp.Short
			for _, part := range parts {
				if t, err := smp.ParseTransmission(part, b.version); err == nil {
					tag, _, _ := strings.Cut(string(t.Command), " ")
					form, entity = form+" "+tag, t.EntityID
				}
			}
			if !seen[form] {
				seen[form] = true
				f.Add(b.content, entity.Bytes(), uint16(b.version))
			}
		}
	}
	if len(seen) < 20 {
		f.Fatalf("only %d forms of blocks", len(seen))
	}
}

// FuzzReceive hands out what a router sends in a block, to calls that wait for every
// id in it. Each is answered at most once, with a result about its entity or with an
// error; whatever has no id is an event.
func FuzzReceive(f *testing.F) {
	addReceived(f)
	f.Add([]byte("\x02\x00\x04\x00\x01i\x00\x00\x08\x00\x01i\x00PONG"), []byte{}, uint16(19))
	f.Fuzz(func(t *testing.T, content, about []byte, version uint16) {
		parts, err := smp.SplitContent(nil, content)
		if err != nil {
			return
		}
		v := smp.Version(version)
		c := &Client{
			session: &transport.Session{Version: v},
			events:  make(chan Event, smp.MaxTransmissions),
			ended:   make(chan struct{}),
			waiting: make(map[string]*Call),
		}
		entity := smp.NewEntityID(about)
		calls := map[string]*Call{}
		for _, part := range parts {
			in, err := smp.ParseTransmission(part, v)
			if id := string(in.CorrID.Bytes()); err == nil && id != "" && calls[id] == nil {
				calls[id] = &Call{client: c, entity: entity, done: make(chan struct{})}
				if err := c.await(calls[id], id); err != nil {
					t.Fatal(err)
				}
			}
		}
		answered := map[string]smp.Transmission{}
		events := 0
		for _, part := range parts {
			in, err := smp.ParseTransmission(part, v)
			if (c.handOut(part) != nil) != (err != nil) {
				t.Fatalf("a transmission is handed out: %x", part)
			}
			if err != nil {
				break
			}
			id := string(in.CorrID.Bytes())
			if _, again := answered[id]; id == "" {
				events++
			} else if !again {
				answered[id] = in
			}
		}
		if len(c.events) != events {
			t.Errorf("%d events, want %d", len(c.events), events)
		}
		for range events {
			if e := <-c.events; (e.Response == nil) == (e.Err == nil) {
				t.Errorf("event %T, %v", e.Response, e.Err)
			}
		}
		for id, call := range calls {
			in, want := answered[id]
			select {
			case <-call.done:
			default:
				if want {
					t.Errorf("%x has no answer", id)
				}
				continue
			}
			if !want {
				t.Errorf("%x has an answer", id)
			}
			r, err := call.Wait(t.Context())
			if (r == nil) == (err == nil) {
				t.Errorf("answer %T, %v", r, err)
			}
			if _, refused := errors.AsType[smp.Error](err); err == nil || refused {
				if id := in.EntityID.ID(); !id.IsZero() && id != entity {
					t.Errorf("%T, %v: about %x, not %x", r, err, id, entity)
				}
			}
		}
	})
}
