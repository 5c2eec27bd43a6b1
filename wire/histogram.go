package wire

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Buckets of a HoldHistogram: the first ends at 1 us, from 4 us on there are four to each doubling, and the last
// one has no end. So a quantile read from it is at most a quarter above the truth, from 4 us to the last limit.
const (
	holdLinear   = 4  // the first so many are 1 us wide
	holdPerTwice = 4  // the others: so many to each doubling
	holdDoubles  = 23 // up to 2^25 us, 33 s, which no hold reaches: the longest coordination timeout is 10 s
	holdBuckets  = holdLinear + holdPerTwice*holdDoubles + 1
)

// HoldHistogram counts how long host writes were held. Its buckets are fixed, so that those of several groups, controls
// and moments can be added and subtracted. The zero value is empty. In JSON it is the list of the buckets
// that are not empty, each with its upper limit in nanoseconds (left out for the last) and its count.
type HoldHistogram struct{ counts [holdBuckets]uint64 }

// HoldBucket is one bucket.
type HoldBucket struct {
	// UpTo is the longest hold that it counts; 0: it has no limit.
	UpTo  time.Duration `json:"up_to_ns,omitempty"`
	Holds uint64        `json:"holds"`
}

// holdBucket is the bucket of a hold: the first whose limit is not below it.
func holdBucket(d time.Duration) int {
	us := uint64(max(0, (d+time.Microsecond-1)/time.Microsecond))
	if us <= holdLinear {
		return int(max(us, 1)) - 1
	}
	us-- // limits belong to the bucket below
	log := bits.Len64(us) - 1
	part := us >> (log - 2) & (holdPerTwice - 1)
	return min(holdLinear+(log-2)*holdPerTwice+int(part), holdBuckets-1)
}

// holdLimit is the limit of a bucket, 0 for the last.
func holdLimit(bucket int) time.Duration {
	switch {
	case bucket == holdBuckets-1:
		return 0
	case bucket < holdLinear:
		return time.Duration(bucket+1) * time.Microsecond
	}
	log, part := (bucket-holdLinear)/holdPerTwice+2, (bucket-holdLinear)%holdPerTwice
	return time.Duration(uint64(holdPerTwice+part+1)<<(log-2)) * time.Microsecond
}

// Add counts a hold.
func (h *HoldHistogram) Add(d time.Duration) { h.counts[holdBucket(d)]++ }

// Merge adds what another one counted.
func (h *HoldHistogram) Merge(o *HoldHistogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
}

// Since subtracts an earlier state of the same histogram: what remains was counted after it.
func (h *HoldHistogram) Since(earlier *HoldHistogram) (since HoldHistogram, err error) {
	for i, n := range earlier.counts {
		if n > h.counts[i] {
			return HoldHistogram{}, fmt.Errorf("bucket %d had %d holds and has %d: the control was restarted in between", i, n, h.counts[i])
		}
		since.counts[i] = h.counts[i] - n
	}
	return since, nil
}

// Holds is how many were counted.
func (h *HoldHistogram) Holds() (n uint64) {
	for _, c := range h.counts {
		n += c
	}
	return n
}

// Quantile gives an upper limit of the shortest p (0 to 1) of the holds; 0 if there are none. A hold beyond all
// limits is math.MaxInt64.
func (h *HoldHistogram) Quantile(p float64) time.Duration {
	all := h.Holds()
	if all == 0 {
		return 0
	}
	want := max(1, uint64(math.Ceil(p*float64(all))))
	for i, c := range h.counts {
		if c >= want {
			if limit := holdLimit(i); limit != 0 {
				return limit
			}
			break
		}
		want -= c
	}
	return math.MaxInt64
}

// Buckets lists the buckets that are not empty, shortest first.
func (h *HoldHistogram) Buckets() []HoldBucket {
	out := []HoldBucket{}
	for i, n := range h.counts {
		if n > 0 {
			out = append(out, HoldBucket{holdLimit(i), n})
		}
	}
	return out
}

// MarshalJSON writes Buckets.
func (h HoldHistogram) MarshalJSON() ([]byte, error) { return json.Marshal(h.Buckets()) }

// UnmarshalJSON reads what MarshalJSON wrote; a limit that is none of the fixed ones is an error.
func (h *HoldHistogram) UnmarshalJSON(b []byte) error {
	var list []HoldBucket
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*h = HoldHistogram{}
	for _, x := range list {
		i := holdBuckets - 1
		if x.UpTo != 0 {
			i = holdBucket(x.UpTo)
		}
		if holdLimit(i) != x.UpTo {
			return fmt.Errorf("histogram of holds: %d ns is no limit of a bucket", x.UpTo)
		}
		h.counts[i] += x.Holds
	}
	return nil
}
