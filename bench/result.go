package bench

import (
	"cmp"
	"slices"
)

// Result is one figure with its floor.
type Result struct {
	// Name of the figure, "workload" or "workload/detail".
	Name string `json:"name"`
	// Goal is the number of the goal in the requirements ("P1"); empty: there is none.
	Goal string `json:"goal,omitempty"`
	// Value is the median of the repetitions, in Unit.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Floor is the median of the floor, in Unit, and FloorName what it is; 0 and empty: the figure
	// stands alone.
	Floor     float64 `json:"floor,omitempty"`
	FloorName string  `json:"floor_name,omitempty"`
	// Ratio is the median of value / floor of each repetition, RatioMin and RatioMax their spread.
	Ratio    float64 `json:"ratio,omitempty"`
	RatioMin float64 `json:"ratio_min,omitempty"`
	RatioMax float64 `json:"ratio_max,omitempty"`
	// Target is what the goal asks for; nil: it asks for nothing.
	Target *Target `json:"target,omitempty"`
	// Absolute: Target bounds the value even though there is a floor.
	Absolute bool `json:"absolute,omitempty"`
	// Reached says whether Target holds; nil without a target.
	Reached *bool `json:"reached,omitempty"`
	// Min, Median and Max of Value over the repetitions.
	Min         float64      `json:"min"`
	Median      float64      `json:"median"`
	Max         float64      `json:"max"`
	Repetitions []Repetition `json:"repetitions"`
	// Series is how the value went over time, where that was recorded.
	Series []Sample `json:"series,omitempty"`
	// Notes say what a reader must know to judge the figure.
	Notes []string `json:"notes,omitempty"`
}

// Repetition is one measurement and the floor measured around it.
type Repetition struct {
	Value float64 `json:"value"`
	Floor float64 `json:"floor,omitempty"`
}

// Sample is a value at a time since the beginning.
type Sample struct {
	Seconds float64 `json:"seconds"`
	Value   float64 `json:"value"`
}

// Target is a bound for the ratio (where there is a floor, and Result.Absolute is not set) or for the value.
type Target struct {
	// AtMost: the bound is an upper one.
	AtMost bool    `json:"at_most"`
	Bound  float64 `json:"bound"`
}

func atLeast(bound float64) *Target { return &Target{Bound: bound} }
func atMost(bound float64) *Target  { return &Target{AtMost: true, Bound: bound} }

func (t *Target) holds(x float64) bool {
	if t.AtMost {
		return x <= t.Bound
	}
	return x >= t.Bound
}

// result computes the medians and the spread of r, whose names, unit and target are set.
func result(r Result, reps []Repetition) Result {
	r.Repetitions = reps
	var values, floors, ratios []float64
	for _, p := range reps {
		values = append(values, p.Value)
		if p.Floor > 0 {
			floors = append(floors, p.Floor)
			ratios = append(ratios, p.Value/p.Floor)
		}
	}
	r.Min, r.Median, r.Max = spread(values)
	r.Value = r.Median
	judged := r.Value
	if len(ratios) > 0 {
		_, r.Floor, _ = spread(floors)
		r.RatioMin, r.Ratio, r.RatioMax = spread(ratios)
		if !r.Absolute {
			judged = r.Ratio
		}
	}
	if r.Target != nil && len(reps) > 0 {
		reached := r.Target.holds(judged)
		r.Reached = &reached
	}
	return r
}

// spread returns least, median and greatest; zeros for an empty list.
func spread[T cmp.Ordered](list []T) (least, median, greatest T) {
	if len(list) == 0 {
		return
	}
	s := slices.Sorted(slices.Values(list))
	return s[0], s[len(s)/2], s[len(s)-1]
}
