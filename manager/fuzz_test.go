package manager

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/wire"
)

// FuzzCoreMessages gives the core of a group in some state whatever peers may send: bytes as wire decodes them. Nothing may
// panic, whatever state the group is in.
func FuzzCoreMessages(f *testing.F) {
	for typ := wire.TypeOpened; typ <= wire.TypeLost; typ++ {
		f.Add(uint8(40), uint8(typ), uint8(0), []byte("\x01\x00g\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"))
	}
	f.Add(uint8(30), uint8(wire.TypeState), uint8(2), make([]byte, 90))
	f.Fuzz(func(t *testing.T, turns, typ, from uint8, body []byte) {
		m, err := wire.Decode(wire.Type(typ), body)
		if err != nil {
			return
		}
		w := newWorld(t, 2, 2, fastSettings())
		for i := range int(turns) {
			w.beginWrite(i%2, i%2)
			if !w.pump() {
				w.tick()
			}
		}
		if c, ok := m.(wire.Commanded); ok {
			c.Head().Group, c.Head().Epoch = "g", w.epoch
		}
		// A lie may make the group halt, or a wrong decision; it must not make the manager itself break.
		for _, ev := range []Event{Received{[]string{"p1", "p2", "s1", "s2"}[from%4], m}, Tick{}} {
			w.core.Step(w.now.Add(time.Second), ev)
		}
		w.core.Status(w.now)
	})
}

// FuzzSettings: what is read as settings is written and read again as the same.
func FuzzSettings(f *testing.F) {
	b, _ := json.Marshal(DefaultSettings())
	f.Add(b)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again Settings
		if json.Unmarshal(b, &s) != nil {
			return
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &again); err != nil || cmp.Diff(s, again) != "" {
			t.Fatalf("%v: %v read again as %v", err, s, again)
		}
	})
}
