package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/farside-storage/farside/primary"
)

// catchupEvery is how often a first copy or a catch-up that is going on is reported.
const catchupEvery = 5 * time.Second

// reportCatchup logs how far first copies and catch-ups are, until ctx ends.
func reportCatchup(ctx context.Context, node *primary.Node, log *slog.Logger) error {
	tick := time.NewTicker(catchupEvery)
	defer tick.Stop()
	behind := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, g := range node.Status().Groups {
				for _, c := range g.Connections {
					logCatchup(log.With("group", g.Name, "secondary", c.Secondary), c, behind, g.Name+" "+c.Secondary)
				}
			}
		}
	}
}

func logCatchup(log *slog.Logger, c primary.ConnectionStatus, behind map[string]bool, key string) {
	switch left := c.CatchupBlocks * primary.BlockSize; {
	case left > 0:
		behind[key] = true
		log.Info("catching up", "bytes_left", left, "bytes_per_second", int64(c.BytesPerSecond), "seconds_left", int64(c.CatchupSecondsEta))
	case behind[key]:
		delete(behind, key)
		log.Info("caught up: everything was read and sent", "bytes_sent", c.CatchupBytes)
	}
}
