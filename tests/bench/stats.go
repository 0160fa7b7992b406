package bench

import (
	"math"
	"slices"
)

// Spread is a median with the quartiles around it.
type Spread struct {
	Q1     float64 `json:"q1"`
	Median float64 `json:"median"`
	Q3     float64 `json:"q3"`
	N      int     `json:"n"`
}

func spread(values []float64) Spread {
	return Spread{quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75), len(values)}
}

// quantile interpolates between the two values that are nearest (Hyndman and
// Fan, type 7).
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// ratios divides round by round: what disturbs one round disturbs both sides.
func ratios(of, to []float64) []float64 {
	n := min(len(of), len(to))
	all := make([]float64, n)
	for i := range n {
		all[i] = of[i] / to[i]
	}
	return all
}

// line fits y = fixed + slope*x by least squares, in which each point weighs as
// much as its relative error does.
func line(x, y []float64) (fixed, slope float64) {
	var s, sx, sy, sxx, sxy float64
	for i := range x {
		w := 1 / (y[i] * y[i])
		s += w
		sx += w * x[i]
		sy += w * y[i]
		sxx += w * x[i] * x[i]
		sxy += w * x[i] * y[i]
	}
	slope = (s*sxy - sx*sy) / (s*sxx - sx*sx)
	return (sy - slope*sx) / s, slope
}
