//! How a result is written: the four forms that etcdutl knows.

use clap::ValueEnum;

/// A form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// One line, values apart by commas.
    Simple,
    /// One JSON object.
    Json,
    /// A table for people.
    Table,
    /// One line for each value.
    Fields,
}

/// A value under its three names.
pub(super) struct Column {
    /// Over its column of the table.
    pub(super) title: &'static str,
    /// In the JSON object.
    pub(super) json: &'static str,
    /// In its own line.
    pub(super) field: &'static str,
    /// The value.
    pub(super) value: Value,
}

/// What stands in a column.
pub(super) enum Value {
    /// A number, the same in every form.
    Number(i64),
    /// A hash: hexadecimal for people, a number in JSON and in lines.
    Hash(u32),
    /// A size in bytes: rounded for people.
    Bytes(u64),
    /// Text.
    Text(String),
}

impl Value {
    fn for_people(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::Hash(hash) => format!("{hash:x}"),
            Value::Bytes(bytes) => rounded(*bytes),
            Value::Text(text) => text.clone(),
        }
    }

    fn exact(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::Hash(hash) => hash.to_string(),
            Value::Bytes(bytes) => bytes.to_string(),
            Value::Text(text) => text.clone(),
        }
    }

    fn json(&self) -> String {
        match self {
            Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            number => number.exact(),
        }
    }
}

/// The columns in a form, with the line end.
pub(super) fn write(form: Form, columns: &[Column]) -> String {
    match form {
        Form::Simple => {
            let values: Vec<String> = columns.iter().map(|c| c.value.for_people()).collect();
            format!("{}\n", values.join(", "))
        }
        Form::Json => {
            let member = |c: &Column| format!("\"{}\":{}", c.json, c.value.json());
            let members: Vec<String> = columns.iter().map(member).collect();
            format!("{{{}}}\n", members.join(","))
        }
        Form::Table => table(columns),
        Form::Fields => columns
            .iter()
            .map(|c| format!("\"{}\" : {}\n", c.field, c.value.exact()))
            .collect(),
    }
}

fn table(columns: &[Column]) -> String {
    let cells: Vec<(String, String)> = columns
        .iter()
        .map(|c| (c.title.to_uppercase(), c.value.for_people()))
        .collect();
    let widths: Vec<usize> = cells
        .iter()
        .map(|(title, value)| title.chars().count().max(value.chars().count()))
        .collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let row = |texts: Vec<String>| format!("│ {} │\n", texts.join(" │ "));
    let pairs = || cells.iter().zip(&widths);
    let titles = pairs().map(|((title, _), width)| format!("{title:^width$}"));
    let values = pairs().map(|((_, value), width)| format!("{value:>width$}"));
    [
        rule("┌", "┬", "┐"),
        row(titles.collect()),
        rule("├", "┼", "┤"),
        row(values.collect()),
        rule("└", "┴", "┘"),
    ]
    .concat()
}

/// A size in thousands: with one digit behind the point below ten, with none from there on.
fn rounded(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut scale = 1_u128;
    while unit + 1 < UNITS.len() && u128::from(bytes) >= scale * 1000 {
        unit += 1;
        scale *= 1000;
    }
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    match tenths {
        0..100 => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        // What is half goes to the even neighbour, as printf has it.
        _ => {
            let (whole, rest) = (tenths / 10, tenths % 10);
            let up = rest > 5 || (rest == 5 && whole % 2 == 1);
            format!("{} {}", whole + u128::from(up), UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_etcds_tools_do() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (20_480, "20 kB"),
            (16_801_792, "17 MB"),
            (999_999, "1000 kB"),
            (u64::MAX, "18 EB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(rounded(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn the_same_columns_in_each_form() {
        let columns = [
            Column {
                title: "hash",
                json: "hash",
                field: "Hash",
                value: Value::Hash(0x5738_7de7),
            },
            Column {
                title: "version",
                json: "version",
                field: "Version",
                value: Value::Text("3.6.0".to_owned()),
            },
        ];
        let check = |form, expected: &str| assert_eq!(write(form, &columns), expected, "{form:?}");
        check(Form::Simple, "57387de7, 3.6.0\n");
        check(Form::Json, "{\"hash\":1463320039,\"version\":\"3.6.0\"}\n");
        check(Form::Fields, "\"Hash\" : 1463320039\n\"Version\" : 3.6.0\n");
        check(
            Form::Table,
            "┌──────────┬─────────┐\n\
             │   HASH   │ VERSION │\n\
             ├──────────┼─────────┤\n\
             │ 57387de7 │   3.6.0 │\n\
             └──────────┴─────────┘\n",
        );
    }
}
