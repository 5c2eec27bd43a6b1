package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// result is what a command found: JSON by its fields, text by itself.
type result interface {
	writeText(w io.Writer) error
}

// print writes a result to standard output in the form asked for.
func (a *app) print(r result) error {
	if !a.json() {
		return r.writeText(a.out)
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// writeTree prints a JSON document for people: one value a line, in the document's order,
// indented by depth.
func writeTree(w io.Writer, document []byte, indent string) error {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	if err := treeValue(w, d, indent, ""); err != nil {
		return fmt.Errorf("document at byte %d: %w", d.InputOffset(), err)
	}
	return nil
}

// treeValue prints the next value; lead is what the line begins with ("name:" or "-"), "" at the top.
func treeValue(w io.Writer, d *json.Decoder, indent, lead string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	if !nested {
		return treeLeaf(w, indent, lead, token)
	}
	if !d.More() {
		_, err := d.Token()
		return errors.Join(err, treeLeaf(w, indent, lead, "none"))
	}
	if lead != "" {
		if _, err := fmt.Fprintf(w, "%s%s\n", indent, lead); err != nil {
			return err
		}
		indent += "  "
	}
	for d.More() {
		lead := "-"
		if delim == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			lead = strings.ReplaceAll(fmt.Sprint(name), "_", " ") + ":"
		}
		if err := treeValue(w, d, indent, lead); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func treeLeaf(w io.Writer, indent, lead string, value any) error {
	if value == nil {
		value = "unknown"
	}
	if value == "" {
		value = "none"
	}
	_, err := fmt.Fprintf(w, "%s%s %s\n", indent, lead, printable(fmt.Sprint(value)))
	return err
}

// printable keeps what a peer sent from moving the terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
