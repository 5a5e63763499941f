package web

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/smp"
)

// The files that pages are made of: templates, and media and well-known as they are.
//
//go:embed site
var embedded embed.FS

// linkPaths are what links begin with, after the name of the host: to contacts and
// with invitations, and the short forms of both, for groups, channels and relays.
var linkPaths = []string{"contact", "invitation", "a", "c", "g", "r", "i"}

// A page is what the templates show.
type page struct {
	information
	Host  string // the first by which the router is reached; empty if none is known
	Onion string // its onion address; empty if it has none
}

// ShortCommit returns the commit as people write it.
func (p page) ShortCommit() string { return p.Commit[:min(7, len(p.Commit))] }

// CommitLink returns where the commit can be seen, empty if that is not known: not of
// a program whose files were changed, for instance.
func (p page) CommitLink() string {
	if p.Public == nil || p.Commit == "" || strings.HasSuffix(p.Commit, "+") {
		return ""
	}
	return strings.TrimSuffix(p.Public.SourceCode, "/") + "/commit/" + p.Commit
}

// Expiration returns how long messages are kept, in words.
func (p page) Expiration() string {
	return periodText(time.Duration(p.Config.MessageExpiration) * time.Second)
}

// functions are those that the templates use.
var functions = template.FuncMap{
	"isWeb":   isWeb,
	"simplex": simplexLink,
	"capital": func(word string) string { return strings.ToUpper(word[:1]) + word[1:] },
	"yesNo": func(yes bool) string {
		if yes {
			return "Yes"
		}
		return "No"
	},
}

// isWeb reports whether a text of the configuration can be linked to.
func isWeb(text string) bool {
	return strings.HasPrefix(text, "https://") || strings.HasPrefix(text, "http://")
}

// simplexLink returns a link of the protocol for a browser, empty if the text is none.
func simplexLink(text string) template.URL {
	switch a, _ := smp.ParseAddress(text); a.(type) {
	case *smp.ConnectionLink, *smp.ShortLink:
		return template.URL(text) //nolint:gosec // it begins with simplex: or https:
	case *smp.RouterAddress, *smp.QueueAddress: // not what one connects to
	}
	return ""
}

// siteFiles returns the files of the site by their names, with slashes.
func siteFiles(c *config.Router, b Build) (map[string][]byte, error) {
	p := page{information: newInformation(c, b), Onion: onion(c.Transport.Hosts)}
	if len(c.Transport.Hosts) > 0 {
		p.Host = c.Transport.Hosts[0].String()
	}
	templates, err := template.New("").Funcs(functions).ParseFS(embedded, "site/*.html")
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	var index, link bytes.Buffer
	if err := errors.Join(templates.ExecuteTemplate(&index, "index.html", p), templates.ExecuteTemplate(&link, "link.html", p)); err != nil {
		return nil, err
	}
	files["index.html"] = index.Bytes()
	for _, name := range linkPaths {
		files[path.Join(name, "index.html")] = link.Bytes()
	}
	if files["info.json"], err = p.json(); err != nil {
		return nil, err
	}
	for _, folder := range []string{"media", "well-known"} {
		entries, err := embedded.ReadDir(path.Join("site", folder))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := path.Join(folder, e.Name())
			if files[name], err = embedded.ReadFile(path.Join("site", name)); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// The permissions of what is written: another web server may read it.
const (
	folderMode fs.FileMode = 0o755
	fileMode   fs.FileMode = 0o644
)

// writeSite writes files to a folder, which is made if need be. A file that is the
// same already stays as it is; others are replaced, each at once.
func writeSite(folder string, files map[string][]byte) error {
	for name, data := range files {
		file := filepath.Join(folder, filepath.FromSlash(name))
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) { //nolint:gosec // in the folder that the operator names
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), folderMode); err != nil {
			return err
		}
		if err := writeFile(file, data); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(name string, data []byte) (err error) {
	f, err := atomicfile.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(fileMode), f.Sync()); err != nil {
		return err
	}
	return f.Replace()
}
