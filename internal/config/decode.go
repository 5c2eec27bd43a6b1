package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// decoder fills structs from a tree of TOML values and notes every problem on the way, where an
// ordinary decoder would stop at the first.
type decoder struct {
	source   string
	places   places
	problems []*Error
	// faulty holds the path of each key that has a problem and of the tables around it.
	faulty map[string]bool
}

func (d *decoder) problem(path, format string, args ...any) {
	at := d.places.find(path)
	d.problems = append(d.problems, &Error{
		Source: d.source, Line: at.line, Column: at.column, Key: path, Problem: fmt.Sprintf(format, args...),
	})
	if d.faulty == nil {
		d.faulty = map[string]bool{}
	}
	for path != "" && !d.faulty[path] {
		d.faulty[path] = true
		path = around(path)
	}
}

// around returns the path of the table or list that a key is in.
func around(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// table fills the struct v from the table at path.
func (d *decoder) table(path string, v reflect.Value, table map[string]any) {
	fields := fieldsOf(v)
	for _, key := range sortedKeys(table) {
		field, ok := fields[key]
		if !ok {
			d.unknown(path, key, v.Type())
			continue
		}
		d.value(child(path, key), field, table[key])
	}
}

// unknown names the nearest known key: of the same table, or elsewhere if a key is written there exactly so.
func (d *decoder) unknown(path, key string, table reflect.Type) {
	near, edits := nearest(key, names(table))
	where := "in the file"
	if path != "" {
		where = "in [" + path + "]"
	}
	if edits > 2 {
		for _, k := range Keys("") {
			if leaf := k.Path[strings.LastIndex(k.Path, ".")+1:]; leaf == key {
				d.problem(child(path, key), "unknown key %q %s: the nearest known key is %q", key, where, k.Path)
				return
			}
		}
	}
	d.problem(child(path, key), "unknown key %q %s: the nearest known key is %q", key, where, near)
}

// value fills v, a field of a known key, from a TOML value.
func (d *decoder) value(path string, v reflect.Value, value any) {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, v, u, value)
		return
	}
	switch v.Kind() {
	case reflect.String:
		if s, ok := value.(string); ok {
			v.SetString(s)
			return
		}
		d.problem(path, "is %s: write a string in quotes", kindOf(value))
	case reflect.Pointer:
		d.section(path, v, value)
	case reflect.Struct:
		if table, ok := value.(map[string]any); ok {
			d.table(path, v, table)
			return
		}
		d.problem(path, "is %s: write a table, [%s]", kindOf(value), path)
	case reflect.Slice:
		d.list(path, v, value)
	default:
		// A field of a kind that no key has yet: a mistake in this package, which the test of Keys finds.
		d.problem(path, "cannot be set")
	}
}

func (d *decoder) section(path string, v reflect.Value, value any) {
	table, ok := value.(map[string]any)
	if !ok {
		d.problem(path, "is %s: write a table, [%s]", kindOf(value), path)
		return
	}
	if v.IsNil() {
		v.Set(newWithDefaults(v.Type().Elem()))
	}
	d.table(path, v.Elem(), table)
}

func (d *decoder) list(path string, v reflect.Value, value any) {
	items, ok := value.([]any)
	if !ok {
		if v.Type().Elem().Kind() == reflect.Struct && !isText(v.Type().Elem()) {
			d.problem(path, "is %s: write [[%s]] for each one", kindOf(value), path)
		} else {
			d.problem(path, "is %s: write a list, [\"...\", \"...\"]", kindOf(value))
		}
		return
	}
	v.SetZero()
	for i, item := range items {
		e := newWithDefaults(v.Type().Elem()).Elem()
		d.value(fmt.Sprintf("%s[%d]", path, i), e, item)
		v.Set(reflect.Append(v, e))
	}
}

// text fills a value that parses itself. A size may be a bare number of bytes.
func (d *decoder) text(path string, v reflect.Value, u encoding.TextUnmarshaler, value any) {
	var s string
	switch x := value.(type) {
	case string:
		s = x
	case int64:
		if _, ok := u.(*Size); !ok {
			if _, ok := u.(*Duration); ok {
				d.problem(path, "the number %d has no unit: write a string such as \"%dms\"", x, x)
				return
			}
			d.problem(path, "is %s: write a string in quotes", kindOf(value))
			return
		}
		s = fmt.Sprint(x)
	default:
		d.problem(path, "is %s: write a string in quotes", kindOf(value))
		return
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		d.problem(path, "%v", err)
		return
	}
}

// kindOf names a TOML value's type for people.
func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "a truth value"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

func child(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func sortedKeys(table map[string]any) []string {
	keys := make([]string, 0, len(table))
	for k := range table {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// fieldsOf maps the keys of a struct to its fields.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		if key, ok := v.Type().Field(i).Tag.Lookup("toml"); ok {
			fields[key] = v.Field(i)
		}
	}
	return fields
}

// names lists the keys of a struct in the order they are declared.
func names(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if key, ok := t.Field(i).Tag.Lookup("toml"); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// isText says whether values of the type are written as one string.
func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(textUnmarshaler) }

// newWithDefaults returns a pointer to a new value with its defaults.
func newWithDefaults(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if s, ok := v.Interface().(defaulter); ok {
		s.setDefaults()
	}
	return v
}
