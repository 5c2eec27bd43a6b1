package ring

import (
	"bytes"
	"testing"
)

// TestArenas: memory comes back, only for the same size, and does not hold what it held.
func TestArenas(t *testing.T) {
	var home Arenas
	take := func(size int) *Arena {
		t.Helper()
		a, err := home.New(size)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Bytes()) != size {
			t.Fatalf("%d bytes, want %d", len(a.Bytes()), size)
		}
		return a
	}
	a := take(8192)
	kept := a.Bytes()
	secret := bytes.Repeat([]byte("secret.."), 1024)
	copy(kept, secret)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if b := take(4096); &b.Bytes()[0] == &kept[0] {
		t.Error("another size got the same memory")
	}
	c := take(8192)
	if &c.Bytes()[0] != &kept[0] {
		t.Error("the memory did not come back")
	}
	for at := 0; at < 8192; at += 512 {
		if bytes.Equal(c.Bytes()[at:at+16], secret[:16]) {
			t.Errorf("byte %d still holds what it held", at)
		}
	}
	if d := take(8192); &d.Bytes()[0] == &kept[0] {
		t.Error("two have the same memory")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := home.Close(); err != nil {
		t.Fatal(err)
	}
	var none *Arenas
	if e, err := none.New(4096); err != nil || e.Close() != nil {
		t.Errorf("without a home: %v", err)
	}
}
