package main

import (
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressFunc tells how far a stage of long work is, in bytes. A total of 0 is not known yet. It is called from one
// goroutine at a time, and often: it is cheap.
type progressFunc func(stage string, done, total uint64)

// progress shows how far long work is: a bar for each stage on a terminal, a line for
// each tenth of a stage elsewhere.
type progress struct {
	w        io.Writer
	bars     *mpb.Progress // nil: lines
	bar      *mpb.Bar
	stage    string
	tenth    uint64 // of the stage, last printed
	finished bool
}

func (a *app) newProgress() *progress {
	p := &progress{w: a.err}
	if isTerminal(a.err) && !a.json() {
		p.bars = mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(40))
	}
	return p
}

// update is the progressFunc.
func (p *progress) update(stage string, done, total uint64) {
	if stage != p.stage {
		p.endStage()
		p.stage, p.tenth, p.finished = stage, 0, false
		p.startStage()
	}
	if p.bars != nil {
		p.bar.SetTotal(int64(total), false)
		p.bar.SetCurrent(int64(min(done, max(total, 1)-1))) // a bar that is full cannot move again
		p.finished = total > 0 && done >= total
		return
	}
	if total == 0 {
		return
	}
	tenth := tenths(done, total)
	if tenth <= p.tenth {
		return
	}
	p.tenth = tenth
	p.line("%s: %d %% of %s", stage, tenth*10, humanize.IBytes(total))
}

// tenths of total that are done, without overflow.
func tenths(done, total uint64) uint64 {
	if done >= total {
		return 10
	}
	return uint64(float64(done) / float64(total) * 10)
}

func (p *progress) startStage() {
	if p.bars == nil {
		p.line("%s: begins", p.stage)
		return
	}
	// Added with total 0: of a bar whose total was known at once, SetTotal is ignored.
	p.bar = p.bars.AddBar(0,
		mpb.PrependDecorators(decor.Name(p.stage+" "), decor.Percentage()),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
}

func (p *progress) endStage() {
	if p.bar == nil {
		return
	}
	if p.finished {
		p.bar.SetTotal(-1, true)
	} else {
		p.bar.Abort(false)
	}
	p.bar = nil
}

// close ends the last stage and waits until the terminal shows it.
func (p *progress) close() {
	p.endStage()
	if p.bars != nil {
		p.bars.Wait()
	}
}

func (p *progress) line(format string, args ...any) {
	// Progress that cannot be shown is no reason to stop the work.
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}
