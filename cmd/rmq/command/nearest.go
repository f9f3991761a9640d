package command

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// nearest gives up to three of the candidates that could have been meant by
// name, the nearest first: those within a third of the name's length in single
// edits, or that one is the beginning of the other.
func nearest(name string, candidates []string) []string {
	type near struct {
		name     string
		distance int
	}
	var found []near
	for _, c := range slices.Compact(slices.Sorted(slices.Values(candidates))) {
		d := editDistance(strings.ToLower(name), strings.ToLower(c))
		switch {
		case c == name:
		case d <= max(1, len(name)/3), prefixed(name, c):
			found = append(found, near{c, d})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return cmp.Compare(a.distance, b.distance) })
	var names []string
	for _, n := range found[:min(3, len(found))] {
		names = append(names, n.name)
	}
	return names
}

func prefixed(a, b string) bool {
	return len(a) >= 2 && len(b) >= 2 && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func editDistance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

func orList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	return strings.Join(quoted, " or ")
}
