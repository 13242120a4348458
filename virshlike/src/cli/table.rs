//! virsh's table: a space, cells padded to their column, three spaces between, a line of dashes
//! below the header.

/// A table under construction.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|head| (*head).to_string()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; control characters in cells are shown, not sent to the terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| {
            if cell.chars().any(char::is_control) {
                cell.escape_debug().to_string()
            } else {
                cell
            }
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The table as text, without its header when `quiet`.
    pub fn render(&self, quiet: bool) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|head| width(head)).collect();
        for row in &self.rows {
            for (column, cell) in widths.iter_mut().zip(row) {
                *column = (*column).max(width(cell));
            }
        }
        let mut text = String::new();
        if !quiet {
            line(&mut text, &self.header, &widths);
            let dashes: usize = widths.iter().map(|width| width + 3).sum();
            text.push_str(&"-".repeat(dashes));
            text.push('\n');
        }
        for row in &self.rows {
            line(&mut text, row, &widths);
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

fn line(text: &mut String, cells: &[String], widths: &[usize]) {
    let mut padding = 0;
    for (cell, column) in cells.iter().zip(widths) {
        text.push_str(&" ".repeat(padding));
        text.push(' ');
        text.push_str(cell);
        padding = column.saturating_sub(width(cell)) + 2;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_looks_as_virsh_prints_it() {
        let mut table = Table::new(&["Id", "Name", "State"]);
        table.row(["3", "centos7", "running"].map(str::to_string));
        let expected = " Id   Name      State\n\
                        -------------------------\n \
                        3    centos7   running\n";
        assert_eq!(table.render(false), expected);
        assert_eq!(table.render(true), " 3    centos7   running\n");
    }

    #[test]
    fn an_empty_table_has_its_header() {
        assert_eq!(
            Table::new(&["Id", "Name", "State"]).render(false),
            " Id   Name   State\n--------------------\n"
        );
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        let mut table = Table::new(&["Name"]);
        table.row(["a\x1b[2Jb".to_string()]);
        assert!(!table.render(false).contains('\x1b'));
    }
}
