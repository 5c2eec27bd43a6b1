package primary

// fifo is a queue in a ring of memory that grows to the largest length seen.
type fifo[T any] struct {
	buf  []T // a power of two long, or nil
	head uint64
	tail uint64
}

func (f *fifo[T]) len() int { return int(f.tail - f.head) }

func (f *fifo[T]) push(v T) {
	if f.len() == len(f.buf) {
		f.grow()
	}
	f.buf[f.tail&uint64(len(f.buf)-1)] = v
	f.tail++
}

func (f *fifo[T]) grow() {
	buf := make([]T, max(16, 2*len(f.buf)))
	n := uint64(f.len())
	for i := range n {
		buf[i] = *f.at(int(i))
	}
	f.buf, f.head, f.tail = buf, 0, n
}

// at is the element i places behind the front.
func (f *fifo[T]) at(i int) *T { return &f.buf[(f.head+uint64(i))&uint64(len(f.buf)-1)] }

func (f *fifo[T]) pop() T {
	p := f.at(0)
	v := *p
	var zero T
	*p = zero // let go of what it points at
	f.head++
	return v
}
