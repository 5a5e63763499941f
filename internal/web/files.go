package web

import (
	"compress/gzip"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/smpq/smpq/internal/atomicfile"
)

// policy is what pages may do: use what is on the same server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// A contentType is how a kind of file is sent.
type contentType struct {
	name string
	text bool // it is compressed for who wants that
}

// contentTypes has them by extension. The type of other files is octetStream.
var contentTypes = map[string]contentType{
	".html":  {"text/html; charset=utf-8", true},
	".css":   {"text/css; charset=utf-8", true},
	".js":    {"application/javascript", true},
	".svg":   {"image/svg+xml", true},
	".json":  {"application/json", true},
	".png":   {"image/png", false},
	".ico":   {"image/x-icon", false},
	".woff":  {"font/woff", false},
	".woff2": {"font/woff2", false},
	".ttf":   {"font/ttf", false},
}

const octetStream = "application/octet-stream"

// appleFile is a file of JSON that has no extension.
const appleFile = "apple-app-site-association"

func typeOf(name string) contentType {
	if path.Base(name) == appleFile {
		return contentTypes[".json"]
	}
	if t, ok := contentTypes[path.Ext(name)]; ok {
		return t
	}
	return contentType{name: octetStream}
}

// A fileServer serves the files of a folder, and nothing outside of it, wherever
// symbolic links in it lead.
type fileServer struct {
	root *os.Root
	// compressors are those that are free. Each takes 800 KB, so they are few: who finds
	// none gets the file as it is.
	compressors chan *gzip.Writer
}

const maxCompressors = 4

func newFileServer(folder string) (*fileServer, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	s := &fileServer{root: root, compressors: make(chan *gzip.Writer, maxCompressors)}
	for range maxCompressors {
		s.compressors <- gzip.NewWriter(nil) // it takes its memory when it is first used
	}
	return s, nil
}

func (s *fileServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	f, info, err := s.open(r.URL.Path)
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	defer f.Close() //nolint:errcheck // only read from
	t := typeOf(f.Name())
	h.Set("Content-Type", t.name)
	h.Set("Cache-Control", "no-cache") // it may be kept, but is asked for again
	if t.text {
		h.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header.Values("Accept-Encoding")) {
			var done func()
			if w, done = s.compress(w, r); done != nil {
				defer done()
			}
		}
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// open opens the file that a path of a URL stands for. It is a regular file.
func (s *fileServer) open(urlPath string) (*os.File, fs.FileInfo, error) {
	name, err := fileName(urlPath)
	if err != nil {
		return nil, nil, err
	}
	info, err := s.root.Stat(name)
	if err == nil && info.IsDir() {
		name = path.Join(name, "index.html")
		info, err = s.root.Stat(name)
	}
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fs.ErrNotExist
	}
	f, err := s.root.Open(name)
	return f, info, err
}

// fileName returns the name of what a path of a URL stands for. Files whose names
// begin with a dot, and such that are not complete yet, are not served; what is
// well-known is in a folder without the dot.
func fileName(urlPath string) (string, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(urlPath, "/"), "/")
	if name == "" {
		return ".", nil
	}
	if rest, ok := strings.CutPrefix(name, ".well-known/"); ok {
		name = "well-known/" + rest
	}
	if !fs.ValidPath(name) || strings.HasPrefix(name, ".") || strings.Contains(name, "/.") || strings.ContainsAny(name, "\\\x00") || strings.HasSuffix(name, atomicfile.Suffix) {
		return "", fs.ErrNotExist
	}
	return name, nil
}

// acceptsGzip reports whether a client takes answers that gzip has compressed.
func acceptsGzip(header []string) bool {
	for coding := range strings.SplitSeq(strings.Join(header, ","), ",") {
		name, parameters, err := mime.ParseMediaType(coding)
		if err != nil || name != "gzip" {
			continue
		}
		q, given := parameters["q"]
		weight, err := strconv.ParseFloat(q, 64)
		return !given || err == nil && weight > 0
	}
	return false
}

// compress makes an answer a compressed one, if a compressor is free. Then done must
// be called in the end.
func (s *fileServer) compress(w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, done func()) {
	select {
	case z := <-s.compressors:
		z.Reset(w)
		w.Header().Set("Content-Encoding", "gzip")
		r.Header.Del("Range") // of what is compressed, there are no parts
		c := &compressed{ResponseWriter: w, z: z}
		return c, func() {
			if c.written {
				_ = z.Close() // the client may have left
			}
			z.Reset(nil)
			s.compressors <- z
		}
	default:
		return w, nil
	}
}

// A compressed is an answer with a compressed body, if it has one.
type compressed struct {
	http.ResponseWriter
	z       *gzip.Writer
	written bool
}

func (c *compressed) Write(p []byte) (int, error) {
	c.written = true
	return c.z.Write(p)
}
