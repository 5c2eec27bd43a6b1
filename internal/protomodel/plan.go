package protomodel

// How a manager goes on after its start.

// plan waits until every secondary has said what its links show; then what was decided goes forward, all else back.
func (w *world) plan(k int) {
	m := &w.m[k]
	ready := m.s[0].fresh && m.s[1].fresh
	if w.Without.has(UnreachableMeansNoDecision) {
		ready = m.s[0].fresh || m.s[1].fresh
	}
	if !ready {
		return
	}
	behind := max(m.s[0].showsFinal, m.s[1].showsFinal) > m.decided
	if seen := max(m.s[0].seen, m.s[1].seen); seen > m.high || seen > 0 && (!m.logKnown || behind) {
		m.high = max(m.high, seen+lostLogGap)
	}
	if !m.logKnown && !w.Without.has(UnknownNumbersDiscarded) {
		m.high = max(m.high, 2) // a log that was lost may have begun a group: see UnknownNumbersDiscarded
	}
	if m.logKnown && !behind {
		w.planFromLog(k)
	} else {
		w.planFromControls(k)
	}
}

func (w *world) planFromLog(k int) {
	m := &w.m[k]
	forward := false
	for j := range m.s {
		s := &m.s[j]
		s.final = s.showsFinal == m.decided
		if !s.final && s.showsLinked != m.decided {
			w.halt(k, contradicts)
			return
		}
		forward = forward || !s.final
	}
	if m.decided > 0 && (m.s[0].final || m.s[1].final) {
		w.reportPoint(m.decided)
	}
	if forward && !w.Without.has(DecidedGoesForward) {
		w.startRelease(k)
		return
	}
	m.final = max(m.s[0].showsFinal, m.s[1].showsFinal)
	if w.Without.has(DecidedGoesForward) {
		m.final = min(m.s[0].showsFinal, m.s[1].showsFinal)
	}
	w.abandon(k)
}

// tableRow numbers the rows of the decision table as the architecture has them, from 1; 5 is "anything else".
type tableRow int

// decisionTable gives the row for what two secondaries show.
func decisionTable(linked, final [2]uint8) tableRow {
	can := [2]bool{linked[0] > final[0], linked[1] > final[1]}
	equal := linked[0] == linked[1]
	switch {
	case !can[0] && !can[1]:
		if equal {
			return 1
		}
		return 5
	case can[0] && can[1]:
		if equal && final[0] == final[1] {
			return 3
		}
		return 5
	case equal:
		return 4
	case can[0] && final[0] == linked[1], can[1] && final[1] == linked[0]:
		return 2
	}
	return 5
}

// planFromControls uses the decision table: the log is lost.
func (w *world) planFromControls(k int) {
	m := &w.m[k]
	links := [2]uint8{m.s[0].showsLinked, m.s[1].showsLinked}
	finals := [2]uint8{m.s[0].showsFinal, m.s[1].showsFinal}
	if w.Without.has(UnreachableMeansNoDecision) {
		for j := range m.s {
			if !m.s[j].fresh { // as if it showed the same as the other
				links[j], finals[j] = links[1-j], finals[1-j]
			}
		}
	}
	row := decisionTable(links, finals)
	goBack, goForward := row == 2 || row == 3, row == 1 || row == 4
	switch {
	case row == 2 && w.Without.has(TableRow2), row == 4 && w.Without.has(TableRow4):
		goBack, goForward = goForward, goBack
	}
	m.logKnown = true
	switch {
	case goBack:
		m.final = min(finals[0], finals[1])
		m.decided = m.final
		if m.final > 0 {
			w.reportPoint(m.final)
		}
		w.abandon(k)
	case !goForward:
		w.halt(k, tableRefuse)
	case max(links[0], links[1]) == 0:
		w.abandon(k)
	default: // what the controls prove is recorded before it is acted on
		m.round = max(links[0], links[1])
		for j := range m.s {
			m.s[j].final = finals[j] == m.round
		}
		w.decide(k)
	}
}
