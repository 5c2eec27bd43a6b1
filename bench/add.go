package bench

import "context"

// Workload is one that this package may not import. It makes its devices itself.
type Workload struct {
	Name, What string
	// Run measures; the options are complete.
	Run func(ctx context.Context, o Options) ([]Result, error)
}

// Add makes a workload one of those that [Names] lists, behind the others. A program does that as it starts.
func Add(w Workload) {
	workloads = append(workloads, workload{name: w.Name, what: w.What, own: true,
		run: func(ctx context.Context, r *run) ([]Result, error) { return w.Run(ctx, r.o) }})
}
