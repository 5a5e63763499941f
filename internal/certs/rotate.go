package certs

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/smp"
)

// RotateOptions say how an online certificate is renewed.
type RotateOptions struct {
	// CAKey is the file with the key of the authority; empty for that in the folder.
	CAKey string
	// Name is the common name of the new certificate; empty for that of the old.
	Name string
	Now  time.Time
}

// Rotated says what became of an online certificate.
type Rotated struct {
	Identity    smp.Fingerprint // the same as before
	Name        string
	Serial      *big.Int
	NotBefore   time.Time
	NotAfter    time.Time
	Certificate string   // file with the new certificate
	Key         string   // file with its key
	Kept        []string // the old files, under new names
}

// ErrName says that there is no certificate from which a name can be taken.
var ErrName = errors.New("what name shall the certificate have?")

// Rotate makes a new online certificate with a new Ed25519 key, signed by the
// authority. The router's identity, and thus its address, stays. Both files are
// replaced, and the old ones get names that end in their time and ".bak".
//
// If it fails, the files are what they were. Whoever reads them while they are
// replaced may find a key and a certificate that do not fit, for a moment; so
// may who starts after the machine has failed in this moment, and another Rotate
// mends it.
//
// The error is [atomicfile.ErrLocked] while another process rotates.
func Rotate(folder string, o RotateOptions) (Rotated, error) {
	r, err := rotate(folder, o)
	if err != nil {
		return Rotated{}, fmt.Errorf("renew the certificate: %w", err)
	}
	return r, nil
}

func rotate(folder string, o RotateOptions) (Rotated, error) {
	ca, err := readAuthority(folder)
	if err != nil {
		return Rotated{}, err
	}
	keyFile := cmp.Or(o.CAKey, filepath.Join(folder, CAKeyFile))
	caKey, err := readKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: without the key of the authority there is no new certificate for this identity", err)
	}
	if err != nil {
		return Rotated{}, err
	}
	if caKey.Public() != publicKey(ca) {
		return Rotated{}, fmt.Errorf("%s is not the key of %s", keyFile, filepath.Join(folder, CAFile))
	}
	r := Rotated{
		Identity: smp.FingerprintOf(ca.Raw), Name: o.Name,
		Certificate: filepath.Join(folder, CertificateFile), Key: filepath.Join(folder, KeyFile),
	}
	if r.Name == "" {
		if r.Name, err = oldName(r.Certificate); err != nil {
			return Rotated{}, err
		}
	}
	online, err := newOnline(ca.Raw, caKey, r.Name, o.Now)
	if err != nil {
		return Rotated{}, err
	}
	cert, err := x509.ParseCertificate(online.certificate)
	if err != nil {
		return Rotated{}, err
	}
	r.Serial, r.NotBefore, r.NotAfter = cert.SerialNumber, cert.NotBefore, cert.NotAfter
	// The key comes first: of a certificate with the wrong key, a router can tell.
	r.Kept, err = replace(o.Now, []atomicfile.Content{
		{Name: r.Key, Mode: privateMode, Data: online.keyPEM},
		{Name: r.Certificate, Mode: publicMode, Data: encode(pemCertificate, online.certificate)},
	})
	return r, err
}

// readAuthority returns the certificate of the authority, which must be the
// identity that the router had.
func readAuthority(folder string) (*x509.Certificate, error) {
	file := filepath.Join(folder, CAFile)
	blocks, err := readPEM(file, pemCertificate)
	if err != nil {
		return nil, err
	}
	if len(blocks) != 1 {
		return nil, fmt.Errorf("%s: it has %d certificates, want one", file, len(blocks))
	}
	ca, err := x509.ParseCertificate(blocks[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	stated, err := readFingerprint(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist): // nothing depends on it here
	case err != nil:
		return nil, err
	case stated != smp.FingerprintOf(ca.Raw):
		return nil, errFingerprint
	}
	return ca, nil
}

// oldName returns the common name of the certificate in a file.
func oldName(file string) (string, error) {
	blocks, err := readPEM(file, pemCertificate)
	if err != nil {
		return "", fmt.Errorf("%w %w", ErrName, err)
	}
	if len(blocks) != 1 {
		return "", fmt.Errorf("%s: it has %d certificates, want one", file, len(blocks))
	}
	cert, err := x509.ParseCertificate(blocks[0])
	if err != nil {
		return "", fmt.Errorf("%w %s: %w", ErrName, file, err)
	}
	if cert.Subject.CommonName == "" {
		return "", fmt.Errorf("%w %s has none", ErrName, file)
	}
	return cert.Subject.CommonName, nil
}

// A replacement is a new file in the place of an old one.
type replacement struct {
	name string
	file *atomicfile.File
	kept string // new name of the old file; empty if there was none, or not yet
}

// replace gives files new contents and returns under which names the old ones are
// kept. If one of them fails, all are what they were.
func replace(now time.Time, files []atomicfile.Content) (kept []string, err error) {
	var all []*replacement
	defer func() {
		for _, r := range all {
			err = errors.Join(err, r.file.Close())
		}
	}()
	for _, c := range files {
		r, err := prepare(c)
		if r != nil {
			all = append(all, r)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := swap(now, all); err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.kept != "" {
			kept = append(kept, r.kept)
		}
	}
	return kept, nil
}

// swap puts all new files in the place of the old ones, or none.
func swap(now time.Time, all []*replacement) error {
	keep := func(r *replacement) error { return r.keep(now) }
	put := func(r *replacement) error { return r.file.Replace() }
	for _, step := range []func(*replacement) error{keep, put} {
		for _, r := range all {
			if err := step(r); err != nil {
				for _, r := range all {
					err = errors.Join(err, r.undo())
				}
				return err
			}
		}
	}
	return nil
}

// prepare writes the new file under its temporary name, with the owner and the
// permissions of the old one.
func prepare(c atomicfile.Content) (*replacement, error) {
	f, err := atomicfile.Create(c.Name)
	if err != nil {
		return nil, err
	}
	r := &replacement{name: c.Name, file: f}
	if old, err := os.Stat(c.Name); err == nil {
		c.Mode = old.Mode().Perm()
		if err := f.ChownLike(old); err != nil {
			return r, fmt.Errorf("give the new %s the owner of the old one (run smpq as its owner or as root): %w", c.Name, err)
		}
	}
	_, err = f.Write(c.Data)
	return r, errors.Join(err, f.Chmod(c.Mode), f.Sync())
}

// timeFormat is the form of the time in the names of old files, in UTC.
const timeFormat = "2006-01-02T15:04:05.999999999Z"

// keep gives the old file another name in addition.
func (r *replacement) keep(now time.Time) error {
	kept := r.name + "." + now.UTC().Format(timeFormat) + ".bak"
	err := os.Link(r.name, kept)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		r.kept = kept
		return nil
	case errors.Is(err, fs.ErrExist):
		return err
	}
	// No hard links here.
	if err := r.copy(kept); err != nil {
		return err
	}
	r.kept = kept
	return nil
}

// copy makes a copy of the old file.
func (r *replacement) copy(to string) error {
	old, err := os.Stat(r.name)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(r.name)
	if err != nil {
		return err
	}
	return atomicfile.PlaceAll([]atomicfile.Content{{Name: to, Mode: old.Mode().Perm(), Data: data}})
}

// undo gives the old file back its only name.
func (r *replacement) undo() error {
	switch {
	case !r.file.Placed() && r.kept == "":
		return nil
	case !r.file.Placed():
		return os.Remove(r.kept)
	case r.kept == "":
		return os.Remove(r.name)
	}
	return os.Rename(r.kept, r.name)
}
