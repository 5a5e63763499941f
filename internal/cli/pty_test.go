package cli_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A pty is a terminal with a keyboard and a screen for a test.
type pty struct {
	tty    *os.File // what the program under test has
	master *os.File

	mu     sync.Mutex
	more   *sync.Cond // when screen grows or ends
	screen strings.Builder
	ended  bool
}

// newPTY returns a terminal with a number of columns.
func newPTY(t *testing.T, columns uint16) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	p := &pty{tty: tty, master: master}
	p.more = sync.NewCond(&p.mu)
	var reading sync.WaitGroup
	reading.Go(p.read)
	t.Cleanup(func() {
		_ = tty.Close()
		reading.Wait()
		_ = master.Close()
	})
	return p
}

// read collects the screen until the terminal's last user is gone.
func (p *pty) read() {
	buf := make([]byte, 4096)
	for {
		n, err := p.master.Read(buf)
		p.mu.Lock()
		p.screen.Write(buf[:n])
		p.ended = err != nil
		p.mu.Unlock()
		p.more.Broadcast()
		if err != nil {
			return
		}
	}
}

// await waits until the screen has text, and returns all of the screen.
func (p *pty) await(t *testing.T, text string) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !strings.Contains(p.screen.String(), text) {
		if p.ended {
			t.Fatalf("the terminal ended without %q: %q", text, p.screen.String())
		}
		p.more.Wait()
	}
	return p.screen.String()
}

// enter types on the keyboard.
func (p *pty) enter(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(p.master, keys); err != nil {
		t.Fatal(err)
	}
}

// echoes reports whether the terminal shows what is typed.
func (p *pty) echoes(t *testing.T) bool {
	t.Helper()
	settings, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	return settings.Lflag&unix.ECHO != 0
}

// awaitSilence waits until the terminal does not show any more what is typed.
// It asks again and again, as a terminal tells nobody of its settings.
func (p *pty) awaitSilence(t *testing.T) {
	t.Helper()
	for p.echoes(t) {
		runtime.Gosched()
	}
}
