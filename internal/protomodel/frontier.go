package protomodel

// frontier keeps states that are to be expanded. A State is mostly zeros, so that a tenth of its size does.
type frontier struct {
	ids   []uint32
	bytes []byte
	read  int
}

// push adds a state: for each run of bytes that are not zero how many zeros are before it, how long it is, and the
// bytes.
func (f *frontier) push(id uint32, s *State) {
	f.ids = append(f.ids, id)
	b := s.bytes()
	for i := 0; i < len(b); {
		zeros := 0
		for i < len(b) && b[i] == 0 && zeros < 255 {
			i, zeros = i+1, zeros+1
		}
		at := i
		for i < len(b) && b[i] != 0 && i-at < 255 {
			i++
		}
		f.bytes = append(f.bytes, byte(zeros), byte(i-at))
		f.bytes = append(f.bytes, b[at:i]...)
	}
}

// pop returns states in the order in which they were added.
func (f *frontier) pop() (id uint32, s State, ok bool) {
	if len(f.ids) == 0 {
		return 0, s, false
	}
	id, f.ids = f.ids[0], f.ids[1:]
	b := s.bytes()
	for i := 0; i < len(b); {
		zeros, n := int(f.bytes[f.read]), int(f.bytes[f.read+1])
		i += zeros
		copy(b[i:i+n], f.bytes[f.read+2:])
		i += n
		f.read += 2 + n
	}
	return id, s, true
}

// seen numbers fingerprints from 0, in the order in which they come.
type seen struct {
	keys  []fingerprint
	slots []uint32 // number + 1; 0 free
}

// number returns the number of a fingerprint, and whether it is new.
func (s *seen) number(f fingerprint) (uint32, bool) {
	if 3*len(s.keys) >= 2*len(s.slots) {
		s.grow()
	}
	mask := uint64(len(s.slots) - 1)
	for i := f[0] & mask; ; i = (i + 1) & mask {
		switch n := s.slots[i]; {
		case n == 0:
			s.keys = append(s.keys, f)
			s.slots[i] = uint32(len(s.keys))
			return uint32(len(s.keys) - 1), true
		case s.keys[n-1] == f:
			return n - 1, false
		}
	}
}

func (s *seen) grow() {
	s.slots = make([]uint32, max(1<<16, 2*len(s.slots)))
	mask := uint64(len(s.slots) - 1)
	for n, f := range s.keys {
		i := f[0] & mask
		for s.slots[i] != 0 {
			i = (i + 1) & mask
		}
		s.slots[i] = uint32(n + 1)
	}
}
