package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Error is one problem of a configuration.
type Error struct {
	// Source is the file's name, or the flag.
	Source string
	// Line and Column count from 1; 0 if the problem has no place in the file.
	Line, Column int
	// Key is the path of the key, such as "primary.volume[0].size"; "" for a problem of
	// syntax.
	Key string
	// Problem says what is wrong and what to write instead.
	Problem string
}

func (e *Error) Error() string {
	where := e.Source
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d:%d", e.Source, e.Line, e.Column)
	}
	if where != "" {
		where += ": "
	}
	if e.Key != "" {
		where += e.Key + ": "
	}
	return where + e.Problem
}

// joined returns all problems as one error, in the order of the file.
func joined(problems []*Error) error {
	slices.SortStableFunc(problems, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}
