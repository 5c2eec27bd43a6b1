package alloc_test

import (
	"fmt"

	"github.com/farside-storage/farside/alloc"
)

func Example() {
	m, err := alloc.New(alloc.Options{Blocks: 1 << 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Building: what holds no data, then what the tables link.
	fmt.Println(m.Retire(0, 16), m.MarkUsed(16, 4), m.MarkUsedOne(19))

	var x alloc.Extent // one per writer, used again and again
	fmt.Println(m.Reserve(&x))
	first, n := x.Take(256)
	fmt.Println(first, n, x.Free())
	m.Return(&x)

	fmt.Println(m.Release(first, uint64(n)), m.ReleaseOne(first))
	s := m.Stats()
	fmt.Println(s.Used, s.Free, s.Retired, m.Close())
	// Output:
	// <nil> <nil> alloc: mark block 19: the block is in use already: two pointers name it
	// <nil>
	// 1024 256 768
	// <nil> alloc: release block 1024: the block is free already: it was released twice, or never taken
	// 4 1048556 16 <nil>
}
