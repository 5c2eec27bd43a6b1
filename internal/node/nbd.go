package node

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/nbd"
)

// exportServers serves the same exports on one or more addresses.
type exportServers struct{ server *nbd.Server }

func serveExports(ctx context.Context, serving *errgroup.Group, exports nbd.Exports, at []config.Address, log *slog.Logger) (*exportServers, error) {
	server, err := nbd.NewServer(nbd.Options{Exports: exports, Logger: log})
	if err != nil {
		return nil, err
	}
	var listeners []net.Listener
	for _, a := range at {
		l, err := nbd.ListenAddr(a.String(), false)
		if err != nil {
			errs := []error{err, server.Close()}
			for _, l := range listeners {
				errs = append(errs, l.Close())
			}
			return nil, errors.Join(errs...)
		}
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		serving.Go(func() error { return server.Serve(ctx, l) })
	}
	return &exportServers{server}, nil
}

func (e *exportServers) close() error {
	if e == nil {
		return nil
	}
	return e.server.Close()
}
