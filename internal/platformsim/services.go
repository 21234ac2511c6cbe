package platformsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Services plays as many services as are asked for, behind one address: the first element of a path is the service's
// name. One of Names answers as New's does, at /NAME/health; any other has so many counters as the query's counters
// says, one by default, and takes the query's delay over each answer.
func Services() http.Handler {
	mux := http.NewServeMux()
	for _, name := range Names() {
		service, _ := New(name) // which it knows
		mux.Handle("/"+name+"/", http.StripPrefix("/"+name, service))
	}
	var asked atomic.Int64
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if delay, err := time.ParseDuration(query.Get("delay")); err == nil {
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
				return
			}
		}
		n, err := strconv.Atoi(query.Get("counters"))
		if err != nil {
			n = 1
		}
		counters := make(map[string]int64, n)
		for i := range n {
			counters[fmt.Sprintf("requests_%d", i)] = asked.Add(1)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "healthy", "counters": counters}) // the client may be gone
	})
	return mux
}
