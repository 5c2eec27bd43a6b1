package hosttest

import (
	"bytes"
	"testing"
)

// written are two volumes as the ordered host leaves them after so many records.
func written(records uint64) Images {
	m := Images{make([]byte, 2*slots*block), make([]byte, 2*slots*block)}
	for k := uint64(1); k <= records; k++ {
		at := slotOf(k, 2) * block
		fill(m[k%2][at:at+block], k)
	}
	return m
}

// TestOrderFindsWhatDoesNotBelong: a record that is missing, older or torn while a newer one is there.
func TestOrderFindsWhatDoesNotBelong(t *testing.T) {
	for _, records := range []uint64{0, 1, 2, 77, 2*slots - 1, 2 * slots, 5*slots + 3} {
		m := written(records)
		if newest, err := m.Order(); err != nil || newest != records {
			t.Errorf("%d records: %d, %v", records, newest, err)
		}
		if records < 2 {
			continue
		}
		k := records - 1 // on the other volume than the newest
		for name, spoil := range map[string]func(slot []byte){
			"missing": func(slot []byte) { clear(slot) },
			"torn":    func(slot []byte) { slot[2000] ^= 1 },
			"older":   func(slot []byte) { fill(slot, k-min(k, 2*slots)) },
			"newer":   func(slot []byte) { fill(slot, records+2*slots+1) },
		} {
			bad := Images{bytes.Clone(m[0]), bytes.Clone(m[1])}
			at := slotOf(k, 2) * block
			spoil(bad[k%2][at : at+block])
			if _, err := bad.Order(); err == nil {
				t.Errorf("%d records, record %d is %s: not found", records, k, name)
			}
			bad[k%2] = nil // the other one is as it should be
			if newest, err := bad.Order(); err != nil || newest != records {
				t.Errorf("%d records, on one volume: %d, %v", records, newest, err)
			}
		}
	}
}

func TestDifferNamesThePlace(t *testing.T) {
	m := written(9)
	other := Images{bytes.Clone(m[0]), bytes.Clone(m[1])}
	if d := m.Differ(other); d != "" {
		t.Error(d)
	}
	other[1][70000] ^= 1
	if d := m.Differ(other); d != "volume 2 differs at byte 70000" {
		t.Error(d)
	}
}
