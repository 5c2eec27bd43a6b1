package bench

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
)

// A picture is one chart with lines, as SVG: enough for figures over time, and nothing to install.

// line of a chart. Points are in the units of the axes.
type line struct {
	name   string
	points []point
	dashed bool // a level that the others are compared with
}

type point struct{ x, y float64 }

// chart has its axes begin at 0.
type chart struct {
	title, x, y string
	lines       []line
}

const (
	chartWidth, chartHeight                 = 960, 420
	chartLeft, chartRight, chartTop, chartB = 90, 20, 50, 60 // margins
)

var chartColours = []string{"#1f6fb2", "#c4451c", "#2c8a4b", "#7a4fa3", "#8a6d1a"}

// svg draws the chart.
func (c *chart) svg() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", chartWidth, chartHeight)
	text(&b, chartWidth/2, 22, "middle", c.title)
	xMost, yMost := c.extent()
	c.axes(&b, xMost, yMost)
	for i, l := range c.lines {
		c.draw(&b, i, l, xMost, yMost)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// extent is where the axes end: at a round number.
func (c *chart) extent() (x, y float64) {
	for _, l := range c.lines {
		for _, p := range l.points {
			x, y = max(x, p.x), max(y, p.y)
		}
	}
	return max(x, 1e-9), roundUpTo(max(y, 1e-9))
}

// roundUpTo gives the next number of the form 1, 2, 2.5 or 5 times a power of ten, in steps that give five ticks.
func roundUpTo(x float64) float64 {
	step := tickStep(x)
	return math.Ceil(x/step) * step
}

// tickStep divides an axis that ends at x into about five.
func tickStep(x float64) float64 {
	base := math.Pow(10, math.Floor(math.Log10(x/5)))
	for _, f := range []float64{1, 2, 2.5, 5} {
		if x/(base*f) <= 6 {
			return base * f
		}
	}
	return base * 10
}

func plotX(x, most float64) float64 { return chartLeft + x/most*(chartWidth-chartLeft-chartRight) }
func plotY(y, most float64) float64 {
	return chartHeight - chartB - y/most*(chartHeight-chartTop-chartB)
}

func (c *chart) axes(b *bytes.Buffer, xMost, yMost float64) {
	for y, step := 0.0, tickStep(yMost); y <= yMost*1.0001; y += step {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`+"\n", chartLeft, plotY(y, yMost), chartWidth-chartRight, plotY(y, yMost))
		text(b, chartLeft-8, plotY(y, yMost)+4, "end", fmt.Sprintf("%.6g", y))
	}
	for x, step := 0.0, tickStep(xMost); x <= xMost*1.0001; x += step {
		text(b, plotX(x, xMost), chartHeight-chartB+18, "middle", fmt.Sprintf("%.4g", x))
	}
	text(b, (chartLeft+chartWidth-chartRight)/2, chartHeight-chartB+40, "middle", c.x)
	fmt.Fprintf(b, `<g transform="translate(18 %d) rotate(-90)">`, (chartTop+chartHeight-chartB)/2)
	text(b, 0, 0, "middle", c.y)
	b.WriteString("</g>\n")
}

func (c *chart) draw(b *bytes.Buffer, i int, l line, xMost, yMost float64) {
	colour, dash := chartColours[i%len(chartColours)], ""
	if l.dashed {
		dash = ` stroke-dasharray="6 4"`
	}
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.5"%s points="`, colour, dash)
	for _, p := range l.points {
		fmt.Fprintf(b, "%.1f,%.1f ", plotX(p.x, xMost), plotY(p.y, yMost))
	}
	b.WriteString(`"/>` + "\n")
	at := float64(chartLeft + 10 + i*(chartWidth-chartLeft-chartRight)/max(len(c.lines), 1))
	fmt.Fprintf(b, `<line x1="%.0f" y1="38" x2="%.0f" y2="38" stroke="%s" stroke-width="2"%s/>`+"\n", at, at+22, colour, dash)
	text(b, at+28, 42, "start", l.name)
}

func text(b *bytes.Buffer, x, y float64, anchor, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="#222222">`, x, y, anchor)
	_ = xml.EscapeText(b, []byte(s)) // a Buffer takes everything
	b.WriteString("</text>\n")
}
