package sitetest

import (
	"errors"
	"testing"
	"time"
)

// Patience is how long to wait for anything: the machine may be slow, and busy with other tests.
const Patience = 2 * time.Minute

// Check ends the test if there is an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Await asks again and again until ok says yes; the error that it returns until then is shown if it never does.
func Await(t testing.TB, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || errors.As(err, new(hopeless)) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond) // between two questions
	}
}

// Hopeless marks an error that no waiting mends.
func Hopeless(err error) error { return hopeless{err} }

type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }
