package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Sources are where the configuration of a router comes from. Of a key that
// several of them have, the last counts; a key that none has, has its default.
type Sources struct {
	File    *File    // nil: none
	Environ []string // "NAME=value", as from [os.Environ]; an empty value is none
	Set     []string // "SECTION.key=value", or "key=value" for the section [SMPQ]; later ones count
}

// Router returns the configuration, and what an operator should know about it:
// keys that nobody reads, and values that certainly are a mistake.
//
// The error joins all that is wrong: a [*ValueError] for each value, and for keys
// in Set that do not exist a [*SetError]. Where the file lacks a required key, it
// says so.
func (s Sources) Router() (Router, []string, error) {
	r := &reader{Sources: s}
	r.readSet()
	r.readEnviron()
	r.unknownInFile()
	var c Router
	r.read(&c, func(Key) bool { return true })
	r.check(&c)
	if len(r.errs) > 0 {
		return Router{}, r.warnings, errors.Join(r.errs...)
	}
	return c, r.warnings, nil
}

// A SetError says that there is no key of the name that is to be set, or that
// nothing is said about what to set.
type SetError struct {
	Setting string // without the value, which may be a secret
	Reason  string
}

func (e *SetError) Error() string { return "setting " + e.Setting + ": " + e.Reason }

// A reader finds the values of keys and puts them where they belong.
type reader struct {
	Sources

	set      map[string]string // by path
	environ  map[string]string // by variable
	errs     []error
	warnings []string
}

// readSet reads the settings.
func (r *reader) readSet() {
	r.set = make(map[string]string)
	for _, setting := range r.Set {
		name, value, found := strings.Cut(setting, "=")
		name = strings.TrimSpace(name)
		path := name
		if !strings.Contains(path, ".") {
			path = tuningSection + "." + path
		}
		switch known := slices.ContainsFunc(keys, func(k Key) bool { return k.Path() == path }); {
		case !found:
			r.errs = append(r.errs, &SetError{name, "has no value: want SECTION.key=value, or key=value for the section [SMPQ]"})
		case !known:
			section, key, _ := strings.Cut(path, ".")
			r.errs = append(r.errs, &SetError{name, "there is no such key" + suggest(section, key, Key.shortPath)})
		default:
			r.set[path] = strings.TrimSpace(value)
		}
	}
}

// shortPath is the shortest name of the key in Set.
func (k Key) shortPath() string { return strings.TrimPrefix(k.Path(), tuningSection+".") }

// dsnVariable chooses the database, for all commands; it sets no key.
const dsnVariable = variablePrefix + "DSN"

// readEnviron reads the environment.
func (r *reader) readEnviron() {
	r.environ = make(map[string]string)
	for _, variable := range r.Environ {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, variablePrefix) || name == dsnVariable || value == "" {
			continue
		}
		if !slices.ContainsFunc(keys, func(k Key) bool { return k.Variable() == name }) {
			meant := ""
			if k := nearest(name, keys, Key.Variable); k != nil {
				meant = didYouMean(k.Variable())
			}
			r.warn("variable %s: there is no such key%s", name, meant)
			continue
		}
		r.environ[name] = strings.TrimSpace(value)
	}
}

// unknownInFile warns of sections and keys that nobody reads.
func (r *reader) unknownInFile() {
	if r.File == nil {
		return
	}
	seen := ""
	for _, e := range r.File.entries {
		known := slices.ContainsFunc(sections, func(s Section) bool { return s.Name == e.Section })
		switch {
		case e.Section == "":
			r.warn("%s:%d: %s is in no section and has no effect%s", r.File.path, e.Line, e.Key, suggest("", e.Key, Key.inFile))
		case !known:
			if e.Section != seen {
				meant := ""
				if s := nearest(e.Section, sections, func(s Section) string { return s.Name }); s != nil {
					meant = didYouMean("[" + s.Name + "]")
				}
				r.warn("%s:%d: the keys of the unknown section [%s] have no effect%s", r.File.path, e.Line, e.Section, meant)
			}
		case !slices.ContainsFunc(keys, func(k Key) bool { return k.Section == e.Section && k.Name == e.Key }):
			r.warn("%s:%d: the unknown key [%s] %s has no effect%s", r.File.path, e.Line, e.Section, e.Key, suggest(e.Section, e.Key, Key.inFile))
		}
		seen = e.Section
	}
}

// inFile names the key as errors about files do.
func (k Key) inFile() string { return "[" + k.Section + "] " + k.Name }

func (r *reader) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// read sets those keys in c that which chooses.
func (r *reader) read(c *Router, which func(Key) bool) {
	for _, k := range keys {
		if !which(k) {
			continue
		}
		if k.Default != "" {
			if err := k.set(c, k.Default); err != nil {
				r.errs = append(r.errs, fmt.Errorf("default of %s: %w", k.Path(), err)) // a test reads all
			}
		}
		if k.Name == "restore_messages" {
			c.StoreLog.RestoreMessages = c.StoreLog.Enable
		}
		wrong := len(r.errs)
		v, found := r.value(k)
		switch {
		case len(r.errs) > wrong: // given, but not what
		case found:
			r.apply(c, k, v)
		case k.Required != nil && k.Required(c) && r.File != nil:
			r.errs = append(r.errs, fmt.Errorf("%s: no key %s in section %s", r.File.path, k.Name, k.Section))
		}
	}
}

// apply sets a key to the value that it was given.
func (r *reader) apply(c *Router, k Key, v value) {
	err := k.set(c, v.text)
	switch {
	case err == nil:
	case k.lenient:
		r.warn("%s, and has no effect", v.error(err.Error()))
	default:
		r.errs = append(r.errs, v.error(err.Error()))
	}
}

// A value is what a key was given, and by what.
type value struct {
	text string
	key  Key
	path string // the file; else what is not a file
	line int    // 0 if it is not a file
}

func (v value) error(reason string) *ValueError {
	return &ValueError{Path: v.path, Line: v.line, Section: v.key.Section, Key: v.key.Name, Reason: reason}
}

// value returns what a key was given, if it was.
func (r *reader) value(k Key) (value, bool) {
	if text, found := r.set[k.Path()]; found {
		return value{text, k, "setting", 0}, true
	}
	if text, found := r.environ[k.Variable()]; found {
		return value{text, k, "variable " + k.Variable(), 0}, true
	}
	if r.File == nil {
		return value{}, false
	}
	e, found, err := r.File.lookup(k.Section, k.Name)
	if err != nil {
		r.errs = append(r.errs, err)
	}
	return value{e.Value, k, r.File.path, e.Line}, found && err == nil
}

// given returns what a key was given, for a check of several.
func (r *reader) given(section, name string) (value, bool) {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Section == section && k.Name == name })
	return r.value(keys[i])
}

// blame adds an error for the first of some keys of a section that was given.
func (r *reader) blame(reason, section string, names ...string) {
	for _, name := range names {
		if v, found := r.given(section, name); found {
			r.errs = append(r.errs, v.error(reason))
			return
		}
	}
}

// check looks at keys that depend on each other.
func (r *reader) check(c *Router) {
	if len(r.errs) > 0 {
		return // what follows would come from what is said already
	}
	s := c.StoreLog
	if !slices.Contains([]string{Memory + Memory, Memory + Journal, Database + Journal, Database + Database}, s.StoreQueues+s.StoreMessages) {
		r.blame(fmt.Sprintf("store_messages = %s does not go with store_queues = %s", s.StoreMessages, s.StoreQueues),
			storeLogSection, "store_messages", "store_queues")
	}
	if v, found := r.given(storeLogSection, "db_deleted_ttl"); found && s.DBDeletedTTL < day && strings.Trim(v.text, "0123456789") == "" {
		r.warn("%s", v.error(fmt.Sprintf("%s without a unit is in seconds, as for smp-server: if days are meant, write %sd", v.text, v.text)))
	}
	c.Transport.WebSockets = slices.DeleteFunc(c.Transport.WebSockets, func(p uint16) bool { return slices.Contains(c.Transport.Ports, p) })
	r.checkWeb(c)
	r.checkInformation(c.Information)
}

func (r *reader) checkWeb(c *Router) {
	if w := c.Web; (w.HTTPS != 0 || w.Cert != "" || w.Key != "") && (w.HTTPS == 0 || w.Cert == "" || w.Key == "") {
		r.warnGiven("has no effect without all of https, cert and key", webSection, "https", "cert", "key")
		c.Web.HTTPS = 0
	}
}

func (r *reader) checkInformation(i Information) {
	if i.SourceCode == "" {
		var names []string
		for _, k := range keys {
			if k.Section == informationSection && k.Name != "hosting_type" {
				names = append(names, k.Name) // smp-server writes hosting_type always
			}
		}
		r.warnGiven("is not shown, nor is other information, without source_code", informationSection, names...)
		return
	}
	if i.OperatorCountry != "" && i.Operator == "" {
		r.warnGiven("is not shown without operator", informationSection, "operator_country")
	}
	if i.HostingCountry != "" && i.Hosting == "" {
		r.warnGiven("is not shown without hosting", informationSection, "hosting_country")
	}
}

// warnGiven warns about the first of some keys of a section that has a value.
func (r *reader) warnGiven(reason, section string, names ...string) {
	for _, name := range names {
		if v, found := r.given(section, name); found && v.text != "" {
			r.warn("%s", v.error(reason))
			return
		}
	}
}
