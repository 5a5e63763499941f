package smp

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

// An event is a line of a transcript between real clients and real routers; see
// testdata/README.md.
type event struct {
	N          int      `json:"n"`
	Kind       string   `json:"ev"`
	Role       string   `json:"role"`
	Session    hexBytes `json:"session"`
	Version    Version  `json:"version"`
	Plain      hexBytes `json:"plain"`
	Key        hexBytes `json:"key"`
	WireSHA256 hexBytes `json:"wire_sha256"`

	CorrID    hexBytes `json:"corr_id"`
	Signed    hexBytes `json:"signed"`
	SignedLen int      `json:"signed_len"`
	Auth      hexBytes `json:"auth"`

	ForwardedVersion Version  `json:"forwarded_version"`
	InnerPlain       hexBytes `json:"inner_plain"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// allTranscripts returns the events of all transcripts, by name.
var allTranscripts = sync.OnceValues(func() (map[string][]event, error) {
	files, err := filepath.Glob("../../testdata/smp-server-6.5.5/7-wire/*.jsonl.gz")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("found no transcripts: %w", err)
	}
	all := map[string][]event{}
	for _, file := range files {
		if all[strings.TrimSuffix(filepath.Base(file), ".jsonl.gz")], err = readTranscript(file); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return all, nil
})

func readTranscript(file string) (events []event, err error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	for d := json.NewDecoder(z); ; {
		var e event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return events, nil
		} else if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
}

// A block is the content of one, with what is needed to parse it.
type block struct {
	n         int // of the event
	session   Short
	version   Version
	toRouter  bool
	handshake bool
	content   []byte
	wire      []byte // SHA-256 of the whole block, if it was not encrypted
}

// blocks returns all blocks in events whose content is known, those within
// forwarded commands included.
func blocks(t testing.TB, events []event) (all []block) {
	t.Helper()
	type end struct{ session, role string }
	versions := map[end]Version{}
	for _, e := range events {
		if e.Kind == "session" {
			versions[end{string(e.Session), e.Role}] = e.Version
		}
	}
	agreed := map[end]bool{}
	forwarded := map[string]Version{} // by session of the client with the proxy
	for _, e := range events {
		at := end{string(e.Session), e.Role}
		b := block{n: e.N, session: short(t, e.Session), version: versions[at], content: e.Plain}
		switch e.Kind {
		case "session":
			agreed[at] = true
			continue
		case "put", "get":
			b.toRouter = (e.Kind == "put") == (e.Role == "client")
			b.handshake = !agreed[at]
			if e.Key == nil {
				b.wire = e.WireSHA256
			}
		case "proxy_client_command":
			forwarded[string(e.Session)] = e.ForwardedVersion
			b.toRouter, b.version, b.content = true, e.ForwardedVersion, e.InnerPlain
		case "proxy_client_response":
			b.version, b.content = forwarded[string(e.Session)], e.InnerPlain
		default:
			continue
		}
		if b.content != nil {
			all = append(all, b)
		}
	}
	return all
}

// eachTranscript runs f for each transcript.
func eachTranscript(t *testing.T, f func(t *testing.T, events []event)) {
	t.Helper()
	all, err := allTranscripts()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) { f(t, all[name]) })
	}
}

// All that real clients and routers sent is parsed, and encoded to the same
// bytes; and real routers refused the same as we do.
func TestTranscripts(t *testing.T) {
	seen := map[string]bool{}
	eachTranscript(t, func(t *testing.T, events []event) {
		refused, answers := map[string]error{}, map[string]error{}
		for _, b := range blocks(t, events) {
			switch {
			case b.handshake:
				checkHandshake(t, b)
				continue
			case b.wire != nil:
				checkPadding(t, b)
			}
			parts, err := SplitContent(nil, b.content)
			if err != nil {
				refused[""] = ErrBlock
				continue
			}
			var batch Batch
			for _, part := range parts {
				if added, err := batch.Add(part); !added || err != nil {
					t.Fatalf("block %d: no room for %d transmissions: %v", b.n, len(parts), err)
				}
				tr := checkTransmission(t, b, part)
				if tr == nil {
					refused[""] = ErrBlock
					continue
				}
				kind, failure := checkCommand(t, b, tr)
				if failure != nil && b.toRouter {
					refused[string(tr.CorrID.Bytes())] = failure
				} else if failure != nil {
					answers[string(tr.CorrID.Bytes())] = failure
				}
				seen[kind] = true
			}
			if !bytes.Equal(batch.Content(), b.content) {
				t.Errorf("block %d: content %x was packed as %x", b.n, b.content, batch.Content())
			}
		}
		for id, failure := range refused {
			if !errors.Is(failure, answers[id]) {
				t.Errorf("we say %v where the router said %v", failure, answers[id])
			}
			delete(answers, id)
		}
		for id, answer := range answers {
			if e, ok := errors.AsType[CommandError](answer); ok && e != ErrProhibited {
				t.Errorf("the router said %v to %x, which we take", answer, id)
			}
		}
	})
	checkSeen(t, seen)
}

// checkSeen checks that the transcripts have all commands and responses, but for
// a few.
func checkSeen(t *testing.T, seen map[string]bool) {
	t.Helper()
	notThere := []string{"*smp.NMSG", "*smp.ENDS", "*smp.ALLS"} // events that did not occur
	for _, c := range goldenCommands(t) {
		if kind := reflect.TypeOf(c).String(); !seen[kind] && !slices.Contains(notThere, kind) {
			t.Errorf("no transcript has %s", kind)
		}
	}
	for _, r := range goldenResponses(t) {
		if kind := reflect.TypeOf(r).String(); !seen[kind] && !slices.Contains(notThere, kind) {
			t.Errorf("no transcript has %s", kind)
		}
	}
}

func checkPadding(t *testing.T, b block) {
	t.Helper()
	padded, err := AppendPadded(nil, b.content, BlockSize)
	if err != nil {
		t.Errorf("block %d: %v", b.n, err)
	}
	if sum := sha256.Sum256(padded); !bytes.Equal(sum[:], b.wire) {
		t.Errorf("block %d: padded differently", b.n)
	}
	if content, err := Unpad(padded); err != nil || !bytes.Equal(content, b.content) {
		t.Errorf("block %d: unpadded to %x, %v", b.n, content, err)
	}
}

// checkHandshake checks versions and keys in the router's hello.
func checkHandshake(t *testing.T, b block) {
	t.Helper()
	if b.wire != nil {
		checkPadding(t, b)
	}
	r := NewBinaryReader(b.content)
	versions := ReadVersionRange(r)
	if b.toRouter || r.Err() != nil || versions.Min != MinVersion {
		return // another kind of block
	}
	if session := ReadShort(r); !session.Equal(b.session) {
		t.Errorf("block %d: the session is %x, not %x", b.n, session.Bytes(), b.session.Bytes())
	}
	if versions.Max < VersionSessionKeys {
		r.End()
		if r.Err() != nil {
			t.Errorf("block %d: %v", b.n, r.Err())
		}
		return
	}
	key := ReadSignedKey(r)
	r.End()
	if r.Err() != nil {
		t.Errorf("block %d: %v", b.n, r.Err())
	}
	out := key.Append(b.session.Append(versions.Append(nil)))
	if !bytes.Equal(out, b.content) {
		t.Errorf("block %d: %x was encoded as %x", b.n, b.content, out)
	}
}

// checkTransmission returns the transmission, or nil if it cannot be parsed.
func checkTransmission(t *testing.T, b block, in []byte) *Transmission {
	t.Helper()
	tr, err := ParseTransmission(in, b.version)
	if err != nil {
		return nil
	}
	if out := tr.Append(nil, b.version); !bytes.Equal(out, in) {
		t.Errorf("block %d: %x was encoded as %x", b.n, in, out)
	}
	if b.version < VersionSessionKeys && b.toRouter && !tr.SessionID.Equal(b.session) {
		t.Errorf("block %d: session %x in a transmission of %x", b.n, tr.SessionID.Bytes(), b.session.Bytes())
	}
	return &tr
}

// checkCommand checks the command or response of a transmission. It returns its
// type, and the error that it is or that is the answer to it.
func checkCommand(t *testing.T, b block, tr *Transmission) (kind string, failure error) {
	t.Helper()
	in := tr.Command
	var out []byte
	if b.toRouter {
		c, err := ParseCommand(in, b.version)
		if err != nil {
			return "refused", err
		}
		kind, out, failure = reflect.TypeOf(c).String(), c.Append(nil, b.version), tr.CheckCredentials(c)
	} else {
		r, err := ParseResponse(in, b.version)
		if err != nil {
			t.Errorf("block %d: %v", b.n, err)
			return "refused", nil
		}
		if err := tr.CheckEntity(r); err != nil {
			t.Errorf("block %d: %s: %v", b.n, in, err)
		}
		kind, out = reflect.TypeOf(r).String(), r.Append(nil, b.version)
		switch r := r.(type) {
		case *ERR:
			failure = r.Err
		case *INFO:
			checkInfo(t, b, r)
		}
	}
	if !bytes.Equal(out, in) {
		t.Errorf("block %d: %q was encoded as %q", b.n, in, out)
	}
	return kind, failure
}

func checkInfo(t *testing.T, b block, r *INFO) {
	t.Helper()
	var info QueueInfo
	if err := json.Unmarshal(r.JSON, &info); err != nil {
		t.Errorf("block %d: %s: %v", b.n, r.JSON, err)
	}
	if out, err := json.Marshal(info); err != nil || !bytes.Equal(out, r.JSON) {
		t.Errorf("block %d: %s was encoded as %s, %v", b.n, r.JSON, out, err)
	}
}

// What real clients signed is what AppendSigned returns.
func TestTranscriptsSigned(t *testing.T) {
	checked := 0
	eachTranscript(t, func(t *testing.T, events []event) {
		sent := map[string]Transmission{}
		for _, b := range blocks(t, events) {
			parts, err := SplitContent(nil, b.content)
			if err != nil || b.handshake || !b.toRouter {
				continue
			}
			for _, part := range parts {
				if tr, err := ParseTransmission(part, b.version); err == nil {
					sent[fmt.Sprintf("%x %x", b.session.Bytes(), tr.CorrID.Bytes())] = tr
				}
			}
		}
		for _, e := range events {
			tr, ok := sent[fmt.Sprintf("%x %x", e.Session, e.CorrID)]
			if !ok || e.Kind != "command" || e.Signed == nil {
				continue // some were too large to be sent
			}
			signed := tr.AppendSigned(nil, short(t, e.Session))
			if len(signed) != e.SignedLen || !bytes.HasPrefix(signed, e.Signed) {
				t.Errorf("event %d: signed bytes are %x, want %x", e.N, signed, e.Signed)
			}
			if !bytes.Equal(tr.Auth.Bytes(), e.Auth) {
				t.Errorf("event %d: authorization is %x, want %x", e.N, tr.Auth.Bytes(), e.Auth)
			}
			checked++
		}
	})
	if checked == 0 {
		t.Error("nothing was checked")
	}
}
