package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFile bounds a configuration file in bytes: a device named by mistake is not read whole.
const maxFile = 1 << 20

// Setting is a key given as a flag. It replaces what the file says; for a list, the whole list.
type Setting struct {
	// Key is the path, one of [Keys].
	Key string
	// Values: one, or any number for a list. A table is written "key=value,key=value", a list
	// in it with ";" between the values.
	Values []string
}

// Load reads the file at path ("" if all is given by settings), lays the settings over it and
// checks the result. With a role the file must be for it; with "" it may be for any. The
// error joins one [Error] for each problem; for a file that cannot be read it wraps the
// system's error.
func Load(path string, role Role, settings []Setting) (*File, error) {
	var document []byte
	if path != "" {
		var err error
		if document, err = readFile(path); err != nil {
			return nil, err
		}
	}
	return parse(path, document, role, settings)
}

// Parse reads a document, as [Load] does; source is its name in errors.
func Parse(source string, document []byte, role Role) (*File, error) {
	return parse(source, document, role, nil)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	defer f.Close() // read only: nothing can be lost
	document, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if len(document) > maxFile {
		return nil, &Error{Source: path, Problem: fmt.Sprintf("is larger than %d bytes: this is not a configuration file", maxFile)}
	}
	return document, nil
}

func parse(source string, document []byte, role Role, settings []Setting) (*File, error) {
	d := &decoder{source: source}
	tree := map[string]any{}
	if err := toml.Unmarshal(document, &tree); err != nil {
		return nil, syntax(source, err)
	}
	d.places = locate(document)
	file := &File{}
	file.Node.setDefaults()
	d.table("", reflect.ValueOf(file).Elem(), tree)
	d.flags(file, role, settings)
	d.check(file, role)
	if len(d.problems) > 0 {
		return nil, joined(d.problems)
	}
	return file, nil
}

func syntax(source string, err error) error {
	e := &Error{Source: source, Problem: err.Error()}
	if at := (*toml.DecodeError)(nil); errors.As(err, &at) {
		e.Line, e.Column = at.Position()
		e.Problem = "not TOML: " + strings.TrimPrefix(at.Error(), "toml: ")
	}
	return e
}

// flags lays settings over the file. Problems name the flag instead of a place in the file.
func (d *decoder) flags(file *File, role Role, settings []Setting) {
	over := &decoder{faulty: d.faulty}
	if role != "" && len(settings) > 0 {
		over.value(string(role), sectionOf(file, role), map[string]any{})
	}
	for _, s := range settings {
		section, key, _ := strings.Cut(s.Key, ".")
		over.source = "flag --" + strings.ReplaceAll(key, "_", "-")
		over.set(file, section, key, s.Values)
	}
	d.problems = append(d.problems, over.problems...)
	d.faulty = over.faulty
}

func sectionOf(file *File, role Role) reflect.Value {
	return fieldsOf(reflect.ValueOf(file).Elem())[string(role)]
}

func (d *decoder) set(file *File, section, key string, values []string) {
	v := fieldsOf(reflect.ValueOf(file).Elem())[section]
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	field, ok := fieldsOf(v)[key]
	if !ok {
		d.unknown(section, key, v.Type())
		return
	}
	path := child(section, key)
	if field.Kind() != reflect.Slice {
		if len(values) != 1 {
			d.problem(path, "needs one value, not %d", len(values))
			return
		}
		d.value(path, field, values[0])
		return
	}
	items := make([]any, len(values))
	for i, value := range values {
		items[i] = value
		if element := field.Type().Elem(); element.Kind() == reflect.Struct && !isText(element) {
			items[i] = d.parseTable(path, element, value)
		}
	}
	d.value(path, field, items)
}

// parseTable turns "key=value,key=value" into the tree that TOML would have made of it.
func (d *decoder) parseTable(path string, t reflect.Type, text string) map[string]any {
	fields := fieldsOf(reflect.New(t).Elem())
	table := map[string]any{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			d.problem(path, "%q is not key=value: write %s=...", part, names(t)[0])
			continue
		}
		key = strings.ReplaceAll(strings.TrimSpace(key), "-", "_")
		if _, twice := table[key]; twice {
			d.problem(path, "%q is given twice", key)
			continue
		}
		table[key] = value
		if f, known := fields[key]; known && f.Kind() == reflect.Slice {
			var items []any
			for item := range strings.SplitSeq(value, ";") {
				items = append(items, item)
			}
			table[key] = items
		}
	}
	return table
}
