// Makes what the tests of crates/read/src/re2 compare with, and the Unicode tables there. README.txt says how to run it.
package main

import (
	"fmt"
	"os"
)

func main() {
	what := ""
	if len(os.Args) == 2 {
		what = os.Args[1]
	}
	switch what {
	case "rows":
		printRows()
	case "tables":
		printTables()
	default:
		fmt.Fprintln(os.Stderr, "usage: go run . rows|tables")
		os.Exit(2)
	}
}
