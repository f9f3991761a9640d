package lookup

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// readProperty finds a property in a file of lines "key = value" or
// "key: value"; the last one counts, as in Java's Properties. A property that
// is not there is empty.
func readProperty(path, key string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("look for property %s: %w", key, err)
	}
	defer f.Close()
	found := ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if value, ok := property(lines.Text(), key); ok {
			found = value
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("look for property %s in %s: %w", key, path, err)
	}
	return found, nil
}

func property(line, key string) (string, bool) {
	line = strings.TrimSpace(line)
	rest, ok := strings.CutPrefix(line, key)
	if !ok {
		rest, ok = strings.CutPrefix(line, `"`+key+`"`)
	}
	rest = strings.TrimSpace(rest)
	if !ok || rest == "" || (rest[0] != '=' && rest[0] != ':') {
		return "", false
	}
	value, _, _ := strings.Cut(rest[1:], " #")
	return strings.Trim(strings.TrimSpace(value), `"'`), true
}
