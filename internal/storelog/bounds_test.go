package storelog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/smp"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A line that is a long list of small values takes memory in proportion to its
// length.
func TestLongListsTakeLittleMemory(t *testing.T) {
	tiny := string(smp.AppendBase64(nil, []byte("\x30\x07\x30\x00\x30\x00\x03\x01\x00")))
	for name, line := range map[string]string{
		"certificates": "NEW_SERVICE service_id=" + svc + " role=N cert=" + strings.Repeat(tiny+",", 60_000) + tiny + " cert_hash=" + certHash + " created_at=1",
		"keys":         "KEYS " + rid + " " + strings.Repeat(rk1+",", 15_000) + rk1,
	} {
		text := []byte(line)
		var err error
		n := allocated(func() { _, err = Parse(text) })
		if limit := uint64(30 * len(text)); n > limit {
			t.Errorf("%s: %d bytes allocated for a line of %d", name, n, len(text))
		}
		if (err != nil) != (name == "keys") { // more than 255 keys have no encoding
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Rivals with very many records are refused rather than read with unbounded
// memory; records that take no id do not count.
func TestTooManyRivalRecords(t *testing.T) {
	other := strings.Replace(create, rid, "AgIC", 1)
	log := func(record string) string {
		return create + "\n" + other + "\n" + strings.Repeat(record+"\n", maxRivalRecords)
	}
	if _, err := replay(t.Context(), strings.NewReader(log("TIME "+rid+" 1")), Options{TempDir: t.TempDir()}); err != nil {
		t.Errorf("TIME: %v", err)
	}
	_, err := replay(t.Context(), strings.NewReader(log("NDELETE "+rid)), Options{TempDir: t.TempDir()})
	if !errors.Is(err, errTooManyRivals) {
		t.Errorf("NDELETE: %v", err)
	}
}

// A bad line ends the reading of a pipe whose writer is idle.
func TestBadLineFromPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	go func() { // more than a block; it ends when the pipe is closed
		_, _ = fmt.Fprint(writer, "garbage\n"+strings.Repeat("TIME "+rid+" 1\n", 2*logfile.MaxLine/40))
	}()
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop := errors.New("stop")
	_, err = Replay(t.Context(), f, Options{TempDir: t.TempDir(), OnProblem: func(Problem) error { return stop }})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}
