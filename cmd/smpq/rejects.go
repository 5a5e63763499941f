package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/smpq/smpq/internal/atomicfile"
)

// openRejects opens the file for rejected records, which must be new. It gets its
// name when it is closed, if the command succeeded and something was rejected;
// otherwise nothing stays. What the command returned goes through the function
// that closes.
func openRejects(name string) (io.Writer, func(failed error) error, error) {
	if name == "" {
		return nil, func(failed error) error { return failed }, nil
	}
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = errors.New("file exists: remove it, or choose another name")
		}
		return nil, nil, fmt.Errorf("open the file for rejected records %s: %w", name, err)
	}
	file, err := atomicfile.Create(name)
	if err != nil {
		return nil, nil, fmt.Errorf("open the file for rejected records: %w", err)
	}
	w := &countingWriter{w: file}
	return w, func(failed error) error {
		var err error
		if failed == nil && w.n > 0 {
			if err = file.Sync(); err == nil {
				err = file.Place()
			}
		}
		if err = errors.Join(err, file.Close()); err != nil {
			err = fmt.Errorf("write rejected records: %w", err)
		}
		return errors.Join(failed, err)
	}, nil
}

// A countingWriter counts what is written.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
