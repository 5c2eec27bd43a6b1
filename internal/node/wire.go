package node

import (
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/wire"
)

// wireOptions are the timeouts of a node's connections, those with its peers and those with tools.
func wireOptions(f *config.File) wire.Options {
	d := f.Node.PeerTimeout.Std()
	return wire.Options{IdleTimeout: d, WriteTimeout: d}
}
