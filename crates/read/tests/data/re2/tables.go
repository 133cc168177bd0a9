package main

import (
	"fmt"
	"sort"
	"unicode"
)

const header = `//! Unicode's classes and simple case folding, of the version that Go knows. Pure.
//!
//! Made by tests/data/re2 (README.txt there); not written by hand.
`

// A range is one number: the first character shifted left by 11, and how many follow it; longer ranges are cut.
const moreMax = 1<<11 - 1

func each(table *unicode.RangeTable, use func(lo, hi rune)) {
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			use(lo, hi)
			return
		}
		for c := lo; c <= hi; c += stride {
			use(c, c)
		}
	}
	for _, r := range table.R16 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	for _, r := range table.R32 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
}

func packed(table *unicode.RangeTable) []uint32 {
	var merged [][2]rune
	each(table, func(lo, hi rune) {
		if n := len(merged); n > 0 && merged[n-1][1]+1 >= lo {
			merged[n-1][1] = max(hi, merged[n-1][1])
			return
		}
		merged = append(merged, [2]rune{lo, hi})
	})
	var out []uint32
	for _, r := range merged {
		for lo := r[0]; lo <= r[1]; lo += moreMax + 1 {
			out = append(out, uint32(lo)<<11|uint32(min(r[1]-lo, moreMax)))
		}
	}
	return out
}

func printNumbers(numbers []string) {
	line := "   "
	for _, number := range numbers {
		if len(line)+len(number)+2 > 120 {
			fmt.Println(line)
			line = "   "
		}
		line += " " + number + ","
	}
	fmt.Println(line)
}

func printTables() {
	tables := map[string]*unicode.RangeTable{}
	for name, table := range unicode.Scripts {
		tables[name] = table
	}
	for name, table := range unicode.Categories {
		tables[name] = table
	}
	var names []string
	for name := range tables {
		names = append(names, name)
	}
	sort.Strings(names)

	fmt.Print(header)
	fmt.Println("\n/// General categories and scripts, in the order of their names. A range is its first character, shifted left by 11")
	fmt.Println("/// bits, and how many follow.")
	fmt.Println("pub(super) static CLASSES: &[(&str, &[u32])] = &[")
	for _, name := range names {
		var numbers []string
		for _, r := range packed(tables[name]) {
			numbers = append(numbers, fmt.Sprintf("0x%x", r))
		}
		fmt.Printf("    (%q, &[\n", name)
		printNumbers(numbers)
		fmt.Println("    ]),")
	}
	fmt.Println("];")

	fmt.Println("\n/// Characters with others that differ in case only: first, last, step, and what is to be added for the next of the")
	fmt.Println("/// ring.")
	fmt.Println("pub(super) static FOLDS: &[(u32, u32, u32, i32)] = &[")
	type run struct{ lo, hi, step, delta rune }
	var runs []run
	for c := rune(0); c <= unicode.MaxRune; c++ {
		delta := unicode.SimpleFold(c) - c
		if delta == 0 {
			continue
		}
		// Letters of both cases may alternate: one of the last two runs may be the one that goes on.
		done := false
		for back := 1; back <= 2 && back <= len(runs) && !done; back++ {
			last := &runs[len(runs)-back]
			gap := c - last.hi
			if last.delta == delta && gap <= 2 && (last.step == 0 || last.step == gap) {
				last.step, last.hi, done = gap, c, true
			}
		}
		if !done {
			runs = append(runs, run{c, c, 0, delta})
		}
	}
	var numbers []string
	for _, r := range runs {
		numbers = append(numbers, fmt.Sprintf("(0x%x, 0x%x, %d, %d)", r.lo, r.hi, max(r.step, 1), r.delta))
	}
	printNumbers(numbers)
	fmt.Println("];")
}
