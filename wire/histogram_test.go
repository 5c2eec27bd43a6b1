package wire

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestHoldHistogramLimits(t *testing.T) {
	before := time.Duration(0)
	for i := range holdBuckets - 1 {
		limit := holdLimit(i)
		if limit <= before || holdBucket(limit) != i || holdBucket(limit+1) != i+1 {
			t.Fatalf("bucket %d: limit %v after %v is in bucket %d, the next nanosecond in %d", i, limit, before, holdBucket(limit), holdBucket(limit+1))
		}
		if before >= holdLinear*time.Microsecond && limit > before+before/4 {
			t.Errorf("bucket %d ends at %v, more than a quarter above %v", i, limit, before)
		}
		before = limit
	}
	if before < 30*time.Second || holdBucket(-1) != 0 || holdBucket(math.MaxInt64-time.Second) != holdBuckets-1 {
		t.Errorf("the last limit is %v", before)
	}
}

// A quantile is never below the exact one, and in the range of the limits at most a quarter above; adding, subtracting
// and JSON lose nothing.
func TestHoldHistogramAgainstSorted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		holds := rapid.SliceOfN(rapid.Int64Range(4000, 30e9), 1, 200).Draw(t, "holds")
		var first, all HoldHistogram
		for i, d := range holds {
			if i < len(holds)/2 {
				first.Add(time.Duration(d))
			}
			all.Add(time.Duration(d))
		}
		slices.Sort(holds)
		p := rapid.Float64Range(0, 1).Draw(t, "p")
		exact := time.Duration(holds[max(1, int(math.Ceil(p*float64(len(holds)))))-1])
		if q := all.Quantile(p); q < exact || q > exact+exact/4 {
			t.Fatalf("quantile %v is %v, exact is %v", p, q, exact)
		}
		rest, err := all.Since(&first)
		if err != nil || rest.Holds() != uint64(len(holds)-len(holds)/2) {
			t.Fatalf("%v: %d holds", err, rest.Holds())
		}
		if _, err := first.Since(&all); err == nil && len(holds) > 0 {
			t.Fatal("a histogram that shrank was subtracted")
		}
		rest.Merge(&first)
		text, err := json.Marshal(rest)
		var back HoldHistogram
		if err != nil || json.Unmarshal(text, &back) != nil || !cmp.Equal(all.Buckets(), back.Buckets()) {
			t.Fatalf("%v: %s", err, text)
		}
	})
}

func TestHoldHistogramOdd(t *testing.T) {
	var h HoldHistogram
	if h.Quantile(0.99) != 0 || h.Holds() != 0 {
		t.Error("an empty one has holds")
	}
	h.Add(time.Hour)
	if h.Quantile(0.5) != math.MaxInt64 {
		t.Errorf("a hold beyond all limits has the quantile %v", h.Quantile(0.5))
	}
	for _, bad := range []string{`{}`, `[{"up_to_ns":4001,"holds":1}]`, `[{"up_to_ns":-1,"holds":1}]`} {
		if err := json.Unmarshal([]byte(bad), &h); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}
