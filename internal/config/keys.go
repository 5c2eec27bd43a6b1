package config

import (
	"reflect"
	"strings"
)

// Key is one key of the file, which is also a flag.
type Key struct {
	// Path in the file, such as "node.listen" or "primary.volume".
	Path string
	// Flag is the last part of the path, with "-" for "_".
	Flag string
	// Usage is one line for the flag's help; "" for the keys inside a list of tables.
	Usage string
	// List: the key takes several values. Tables: each of them is a table, given to a flag as
	// "key=value,key=value" with ";" between the values of a list.
	List, Tables bool
}

// Keys lists the keys of [node] and of one role's section, or of all sections for "", in the order
// in which they are declared. Those inside lists of tables are included.
func Keys(role Role) []Key {
	var keys []Key
	file := reflect.TypeFor[File]()
	for i := range file.NumField() {
		section := file.Field(i).Tag.Get("toml")
		if section == "node" || role == "" || section == string(role) {
			keys = appendKeys(keys, section, file.Field(i).Type)
		}
	}
	return keys
}

func appendKeys(keys []Key, path string, t reflect.Type) []Key {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for i := range t.NumField() {
		field := t.Field(i)
		name, ok := field.Tag.Lookup("toml")
		if !ok {
			continue
		}
		list := field.Type.Kind() == reflect.Slice
		tables := list && field.Type.Elem().Kind() == reflect.Struct && !isText(field.Type.Elem())
		keys = append(keys, Key{
			Path: child(path, name), Flag: strings.ReplaceAll(name, "_", "-"), Usage: field.Tag.Get("help"), List: list, Tables: tables,
		})
		if tables {
			keys = appendKeys(keys, child(path, name), field.Type.Elem())
		}
	}
	return keys
}
