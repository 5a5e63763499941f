package config

type Entry = entry

func (f *File) Entries() []Entry { return f.entries }
