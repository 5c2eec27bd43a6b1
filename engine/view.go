package engine

// View shows every volume of a group as of one CG. It is immutable.
//
// A view is reached through one atomic pointer of its group, and may be used between
// readers.enter and readers.leave.
type View struct {
	group *Group
	cg    uint64
	vols  []volumeView // by Volume.slot; vol is nil where a volume was deleted
}

// volumeView resolves the virtual blocks of one volume: through the tables of CGs that are not folded
// yet, newest first, then the pointer table.
type volumeView struct {
	vol    *Volume
	layers []*cgTable
}

func (v *volumeView) lookup(b VBlock) entry {
	for _, t := range v.layers {
		if e, ok := t.lookup(b); ok {
			return e
		}
	}
	return v.vol.table.load(b)
}

// lookupAt is lookup for the control loop, which looks in table order.
func (v *volumeView) lookupAt(at *leafCursor, b VBlock) entry {
	for _, t := range v.layers {
		if e, ok := t.lookup(b); ok {
			return e
		}
	}
	return at.load(v.vol.table, b)
}

// of returns what the view has of a volume; nil: the volume was deleted, is newer than the view, or of another group.
func (v *View) of(vol *Volume) *volumeView {
	if vol.slot < len(v.vols) && v.vols[vol.slot].vol == vol {
		return &v.vols[vol.slot]
	}
	return nil
}

// CG is the number of the CG that the view shows; 0: none yet.
func (v *View) CG() uint64 { return v.cg }

// with returns the view after tables (one at most per volume) were laid above v.
func (v *View) with(cg uint64, tables []*cgTable) *View {
	n := &View{group: v.group, cg: cg, vols: make([]volumeView, len(v.vols))}
	copy(n.vols, v.vols)
	for _, t := range tables {
		vv := &n.vols[t.vol.slot]
		vv.layers = append([]*cgTable{t}, vv.layers...)
	}
	return n
}

// without returns the view with the layers of a CG gone: it was folded.
func (v *View) without(cg uint64) *View {
	n := &View{group: v.group, cg: v.cg, vols: make([]volumeView, len(v.vols))}
	for i, vv := range v.vols {
		n.vols[i].vol = vv.vol
		for _, t := range vv.layers {
			if t.cg != cg {
				n.vols[i].layers = append(n.vols[i].layers, t)
			}
		}
	}
	return n
}

// withVolume returns the view with a volume put at its slot, or taken out if vol is nil.
func (v *View) withVolume(slot int, vol *Volume) *View {
	n := &View{group: v.group, cg: v.cg, vols: make([]volumeView, max(len(v.vols), slot+1))}
	copy(n.vols, v.vols)
	n.vols[slot] = volumeView{vol: vol}
	return n
}
