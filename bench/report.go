package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Report is what a run measured, and where.
type Report struct {
	Host    Host     `json:"host"`
	Results []Result `json:"results"`
	// Missing says of each figure that was asked for and could not be measured, why.
	Missing []string `json:"missing,omitempty"`
}

// lines stand above the results.
func (r *Report) lines() []hostLine {
	return append(r.Host.lines(), r.missingLines()...)
}

func (r *Report) missingLines() (lines []hostLine) {
	for _, m := range r.Missing {
		lines = append(lines, hostLine{"missing", strings.ReplaceAll(m, "\n", "; ")})
	}
	return lines
}

// WriteJSON writes the report as one object.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes host lines and one table.
func (r Report) WriteText(w io.Writer) error {
	for _, l := range r.lines() {
		if _, err := fmt.Fprintf(w, "%s: %s\n", l.key, l.value); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tvalue\tunit\tmin..max\tfloor\tratio\tgoal\treached")
	for _, x := range r.Results {
		fmt.Fprintln(t, strings.Join(x.row(), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return r.writeNotes(w)
}

func (r Report) writeNotes(w io.Writer) error {
	for _, x := range r.Results {
		for _, n := range x.notes() {
			if _, err := fmt.Fprintf(w, "%s: %s\n", x.Name, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *Result) notes() []string {
	if x.FloorName == "" {
		return x.Notes
	}
	return append([]string{"floor: " + x.FloorName}, x.Notes...)
}

// row is the line of a result in the tables.
func (x *Result) row() []string {
	floor, ratio, goal, reached := "-", "-", "-", "-"
	if x.Floor > 0 {
		floor = figure(x.Floor)
		ratio = fmt.Sprintf("%.3f (%.3f..%.3f)", x.Ratio, x.RatioMin, x.RatioMax)
	}
	if x.Target != nil {
		goal = x.Goal + " " + x.Target.String()
	}
	if x.Reached != nil {
		reached = "NO"
		if *x.Reached {
			reached = "yes"
		}
	}
	return []string{x.Name, figure(x.Value), x.Unit, figure(x.Min) + ".." + figure(x.Max), floor, ratio, goal, reached}
}

func (t *Target) String() string {
	if t.AtMost {
		return fmt.Sprintf("<= %.4g", t.Bound)
	}
	return fmt.Sprintf(">= %.4g", t.Bound)
}

// figure prints four digits, without an exponent.
func figure(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 1000:
		return fmt.Sprintf("%.0f", x)
	case x >= 100:
		return fmt.Sprintf("%.1f", x)
	case x >= 10:
		return fmt.Sprintf("%.2f", x)
	case x >= 0.001:
		return fmt.Sprintf("%.4f", x)
	}
	return fmt.Sprintf("%.2g", x)
}

// WriteMarkdown writes the host lines as a list and the results as a table, for BENCHMARKS.md.
func (r Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	for _, l := range r.lines() {
		fmt.Fprintf(&b, "* %s: %s\n", l.key, l.value)
	}
	b.WriteString("\n| figure | value | unit | min..max | floor | ratio | goal | reached |\n|---|---|---|---|---|---|---|---|\n")
	for _, x := range r.Results {
		b.WriteString("| " + strings.Join(x.row(), " | ") + " |\n")
	}
	b.WriteString("\n")
	for _, x := range r.Results {
		for _, n := range x.notes() {
			fmt.Fprintf(&b, "* %s: %s\n", x.Name, n)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteGo writes Go's benchmark format, one line for each repetition, for benchstat. A figure per
// second is printed as such; benchstat knows nothing of our floors, so the ratio is a second column.
func (r Report) WriteGo(w io.Writer) error {
	var b strings.Builder
	for _, l := range r.Host.lines() {
		fmt.Fprintf(&b, "%s: %s\n", l.key, l.value)
	}
	for _, m := range r.missingLines() { // no key: benchstat would not compare runs that differ in it
		fmt.Fprintf(&b, "# %s: %s\n", m.key, m.value)
	}
	for _, x := range r.Results {
		for _, p := range x.Repetitions {
			fmt.Fprintf(&b, "Benchmark%s 1 %g %s", goName(x.Name), p.Value, strings.ReplaceAll(x.Unit, " ", "-"))
			if p.Floor > 0 {
				fmt.Fprintf(&b, " %g ratio", p.Value/p.Floor)
			}
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// goName makes a benchmark name: it begins with an upper-case letter and holds no space.
func goName(name string) string {
	return strings.ToUpper(name[:1]) + strings.ReplaceAll(name[1:], " ", "_")
}
