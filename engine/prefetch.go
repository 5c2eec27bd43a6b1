//go:build amd64 || arm64

package engine

// prefetch asks for the cache line at p; it has no effect but on speed.
//
//go:noescape
func prefetch(p *uint64)
