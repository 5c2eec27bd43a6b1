package protomodel

import (
	"testing"
	"time"
)

func TestX(t *testing.T) {
	for _, c := range []Config{{CGs: 2, Faults: 1, Takeovers: 1, LogLoss: true, Settled: true}, {CGs: 1, Faults: 2, Settled: true, MaxStates: 6000000}} {
		at := time.Now()
		r := Explore(c)
		t.Log(c, time.Since(at), r)
	}
}
