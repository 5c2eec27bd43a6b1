package bench

import "context"

// runRPO looks at one primary and one secondary control, as an installation of two machines has them.
func runRPO(ctx context.Context, r *run) ([]Result, error) {
	return r.group(ctx, "rpo", 1, []strain{halfOfPeak})
}
