package config

// distance is the number of edits (insert, delete, replace, swap of neighbours) that turn a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(x)][len(y)]
}

// Nearest returns the known word that the fewest edits make of word; the first one of several.
func Nearest(word string, known []string) string {
	best, _ := nearest(word, known)
	return best
}

// maxKeyLength bounds the work for a key that somebody made absurdly long.
const maxKeyLength = 256

// nearest returns the known key with the fewest edits to key and that number; the first one of
// several.
func nearest(key string, known []string) (string, int) {
	if len(key) > maxKeyLength {
		key = key[:maxKeyLength]
	}
	best, least := "", -1
	for _, k := range known {
		if d := distance(key, k); least < 0 || d < least {
			best, least = k, d
		}
	}
	return best, least
}
