package config

import (
	"fmt"

	"github.com/pelletier/go-toml/v2/unstable"
)

// place is where a key stands in a file; both count from 1.
type place struct{ line, column int }

// places maps the path of each key and table, such as "primary.volume[1].size", to where it
// stands. TOML's decoder does not tell, once a document is a tree of values.
type places map[string]place

// find returns the place of a key, or else that of the nearest table around it.
func (p places) find(path string) place {
	for path != "" {
		if at, ok := p[path]; ok {
			return at
		}
		path = around(path)
	}
	return place{}
}

// locate indexes a document that is known to be valid TOML.
func locate(document []byte) places {
	w := placeWalker{places: places{}, last: map[string]int{}}
	w.parser.Reset(document)
	for w.parser.NextExpression() {
		w.expression(w.parser.Expression())
	}
	return w.places
}

type placeWalker struct {
	parser unstable.Parser
	places places
	table  string         // path of the table that key-values belong to
	last   map[string]int // array table -> index of its newest element
}

func (w *placeWalker) expression(e *unstable.Node) {
	switch e.Kind {
	case unstable.Table, unstable.ArrayTable:
		path, at := w.key("", e.Key())
		if e.Kind == unstable.ArrayTable {
			bare := path
			index, seen := w.last[bare]
			if seen {
				index++
			}
			w.last[bare] = index
			path = fmt.Sprintf("%s[%d]", bare, index)
		}
		w.table = path
		w.note(path, at)
	case unstable.KeyValue:
		w.keyValue(w.table, e)
	}
}

// key joins the parts of a dotted key; a part that is an array table means its newest element,
// unless it is the last part.
func (w *placeWalker) key(table string, parts unstable.Iterator) (string, place) {
	path, at := table, place{}
	for first := true; parts.Next(); first = false {
		if !first {
			if index, ok := w.last[path]; ok {
				path = fmt.Sprintf("%s[%d]", path, index)
			}
		}
		node := parts.Node()
		if first {
			start := w.parser.Shape(node.Raw).Start
			at = place{start.Line, start.Column}
		}
		if path != "" {
			path += "."
		}
		path += string(node.Data)
	}
	return path, at
}

func (w *placeWalker) keyValue(table string, e *unstable.Node) {
	path, at := w.key(table, e.Key())
	w.note(path, at)
	w.value(path, e.Value())
}

func (w *placeWalker) value(path string, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			// The node of an inline table has no place of its own; its first key is near.
			_, at := w.key(path, it.Node().Key())
			w.note(path, at)
			w.keyValue(path, it.Node())
		}
	case unstable.Array:
		index := 0
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			w.value(fmt.Sprintf("%s[%d]", path, index), it.Node())
			index++
		}
	}
}

func (w *placeWalker) note(path string, at place) {
	if _, ok := w.places[path]; !ok {
		w.places[path] = at
	}
}
